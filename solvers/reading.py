"""Read a model folder that nobody vouches for: no code is run, nothing outside the folder is touched.

``inspect`` looks at names, sizes and headers only; ``load`` gives the model. Both refuse with one sentence that names the
thing and the way out.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM

from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES

_CONFIG_LIMIT_BYTES = 1 << 20
_INDEX_LIMIT_BYTES = 64 << 20
_IRRELEVANT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Inspected:
    """A folder that looks like a model we can take."""

    folder: Path
    model_type: str
    config: dict[str, Any]
    shards: tuple[Path, ...]

    @property
    def max_positions(self) -> int:
        """Longest context in tokens; 2048 where config.json does not say."""
        found = self.config.get("max_position_embeddings", self.config.get("n_positions", 2048))
        if not isinstance(found, int) or found < 2:
            raise UnreadableModelError(f"{self.folder.name}: config.json gives {found!r} as longest context")
        return found

    @property
    def config_sha256(self) -> str:
        """Hash of everything in config.json that can change the function (not names, versions or storage type)."""
        kept = {key: value for key, value in self.config.items() if key not in _IRRELEVANT}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder by bare name, symbolic links out of it refused."""
    path = folder / name
    if Path(name).name != name or name in ("", ".", ".."):
        raise UnreadableModelError(
            f"{folder.name}: the file name {name!r} is not a bare name inside the model folder"
        )
    if not path.is_file():
        raise UnreadableModelError(f"{folder.name}: {name} is missing; a model folder needs it")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnreadableModelError(
            f"{folder.name}: {name} is a link that leaves the model folder; copy the file instead"
        )
    return path


def _json(path: Path, limit_bytes: int) -> dict[str, Any]:
    where = f"{path.parent.name}: {path.name}"
    if path.stat().st_size > limit_bytes:
        raise UnreadableModelError(f"{where} is larger than {limit_bytes} bytes and will not be read")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableModelError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise UnreadableModelError(f"{where} must hold a JSON object")
    return document


def inspect(folder: Path) -> Inspected:
    """Check a folder's config and shard headers without loading weights.

    Raises:
        UnreadableModelError: something is missing, corrupt or leads outside.
        UnsupportedModelError: the family has no adapter, or the folder brings its own code.
    """
    if not folder.is_dir():
        raise UnreadableModelError(f"{folder}: no such folder; name a Hugging Face model folder")
    config = _json(_inside(folder, "config.json"), _CONFIG_LIMIT_BYTES)
    model_type = config.get("model_type")
    known = ", ".join(sorted(FAMILIES))
    if str(model_type).startswith("rankalloc_"):
        raise UnsupportedModelError(
            f"{folder.name}: already compressed by rankalloc; compress its dense source instead"
        )
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"{folder.name}: model family {model_type!r} is not supported; supported: {known}"
        )
    if "auto_map" in config:
        raise UnsupportedModelError(
            f"{folder.name}: config.json asks for remote code (auto_map), which is never run"
        )
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            f"{folder.name}: quantized weights cannot be compressed; name the unquantized model"
        )
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = _json(_inside(folder, index.name), _INDEX_LIMIT_BYTES).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UnreadableModelError(f"{folder.name}: {index.name} has no usable weight_map")
        shards = tuple(_inside(folder, name) for name in sorted(set(names.values())))
    else:
        shards = (_inside(folder, "model.safetensors"),)
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise UnreadableModelError(
                f"{folder.name}: {shard.name} is not a sound safetensors file ({error}); download it again"
            ) from None
    _inside(folder, "tokenizer.json")
    return Inspected(folder, str(model_type), config, shards)


def weights_sha256(inspected: Inspected) -> str:
    """Hash of all tensors by name, type, shape and bytes: the same for any sharding, streamed one tensor at a time."""
    places = {}
    for shard in inspected.shards:
        with safe_open(shard, framework="pt") as file:
            places.update(dict.fromkeys(file.keys(), shard))
    total = hashlib.sha256()
    for name in sorted(places):
        with safe_open(places[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def storage_dtype(inspected: Inspected) -> torch.dtype:
    """The one floating type of the stored matrices.

    Raises:
        UnsupportedModelError: another type than float32, float16 or bfloat16.
    """
    found = set()
    for shard in inspected.shards:
        with safe_open(shard, framework="pt") as file:
            found |= {
                file.get_slice(name).get_dtype()
                for name in file.keys()
                if len(file.get_slice(name).get_shape()) > 1
            }
    if len(found) != 1 or not found <= _DTYPES.keys():
        raise UnsupportedModelError(
            f"{inspected.folder.name}: weights are stored as {', '.join(sorted(found))}; one of {', '.join(_DTYPES)} is needed"
        )
    return _DTYPES[found.pop()]


def load(inspected: Inspected, *, device: str = "cpu") -> Any:
    """The stock model in float32, in evaluation mode.

    Raises:
        UnreadableModelError: tensors are missing, misshapen or not finite.
    """
    name = inspected.folder.name
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            inspected.folder,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnreadableModelError(f"{name}: the model does not load: {first}") from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise UnreadableModelError(
            f"{name}: {len(missing)} tensors are missing or misshapen, first {missing[0]}"
        )
    for tensor_name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UnreadableModelError(f"{name}: {tensor_name} holds NaN or infinite values")
    return model.to(device).eval()
