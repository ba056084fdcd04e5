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
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from solvers.checkpoints.companions import companions
from solvers.checkpoints.detours import weight_files
from solvers.checkpoints.shards import HARMLESS, places_of
from solvers.checkpoints.sizes import checked_sizes
from solvers.checkpoints.stored_types import check_layers, keep_types, the_dtype
from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES
from solvers.folder import CONFIG_LIMIT_BYTES, called, read_json
from solvers.modeling_rankalloc import COMPACT_PREFIX
from solvers.texts.tokenizer_file import tokenizer_file

_IRRELEVANT = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"),
    *("use_cache", "cache_implementation", "auto_map"),
)


@dataclass(frozen=True)
class Inspected:
    """A folder that looks like a model we can take."""

    folder: Path
    model_type: str
    config: dict[str, Any]
    shards: tuple[Path, ...]
    sizes: dict[str, int]
    """``layers``, ``hidden``, ``heads``, ``vocab``, ``positions``, ... as checked against the tensors' headers."""
    shapes: dict[str, list[int]]
    types: dict[str, str]
    """Storage types of the floating tensors that count, as safetensors calls them."""

    @property
    def aside(self) -> str | None:
        """A sentence on the part of the folder that asks to be used and is not; None where there is none."""
        return aside(self.config)

    @property
    def config_sha256(self) -> str:
        """Hash of everything in config.json that can change the function (not names, versions or storage type)."""
        relevant = {key: value for key, value in self.config.items() if key not in _IRRELEVANT}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def inspect(folder: Path) -> Inspected:
    """Check a folder's config and shard headers without loading weights.

    Raises:
        UnreadableModelError: something is missing, corrupt or leads outside.
        UnsupportedModelError: the family has no adapter, or the config asks for code or weights from elsewhere.
    """
    if not folder.is_dir():
        raise UnreadableModelError(f"{folder}: no such folder; name a Hugging Face model folder")
    config = read_json(folder, "config.json", CONFIG_LIMIT_BYTES)
    model_type = config.get("model_type")
    supported = ", ".join(sorted(FAMILIES))
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"{called(folder)}: model family {model_type!r} is not supported; supported: {supported}"
        )
    if model_type.startswith(COMPACT_PREFIX):
        raise UnsupportedModelError(
            f"{called(folder)}: already compressed by rankalloc; compress its dense source instead"
        )
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"{called(folder)}: model family {model_type!r} is not supported; supported: {supported}"
        )
    shards, shapes, types = weight_files(
        folder, config, if_quantized="quantized weights cannot be compressed; name the unquantized model"
    )
    tokenizer_file(folder)
    companions(folder, model_type)  # what could not travel along is refused before there is any work
    sizes = checked_sizes(called(folder), config, shapes)
    return Inspected(folder, model_type, config, shards, sizes, shapes, types)


def aside(config: dict[str, Any]) -> str | None:
    """A sentence on a config.json that names code (``auto_map``) for a family that is known here, or None."""
    family = config.get("model_type")
    if "auto_map" not in config or family not in FAMILIES:
        return None
    return f"config.json names code of its own (auto_map): left aside, {family} is transformers' own here"


def aside_of(folder: Path) -> str | None:
    """`aside` of a folder. Raises UnreadableModelError."""
    return aside(read_json(folder, "config.json", CONFIG_LIMIT_BYTES))


def check_token_ids(name: str, vocab: int, largest: int) -> None:
    """Refuse a tokenizer whose ids the model does not have.

    Raises:
        UnreadableModelError: ``largest`` is outside the vocabulary.
    """
    if largest >= vocab:
        raise UnreadableModelError(
            f"{name}: tokenizer.json gives id {largest}, the model's vocabulary ends at {vocab - 1};"
            " the tokenizer is of another model"
        )


def weights_sha256(inspected: Inspected) -> str:
    """Hash of all tensors by name, type, shape and bytes: the same for any sharding, streamed one tensor at a time."""
    places = places_of(inspected.shards)
    total = hashlib.sha256()
    for name in sorted(places):
        with safe_open(places[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def storage_dtype(inspected: Inspected) -> torch.dtype:
    """The floating type of the layers' matrices.

    Raises:
        UnsupportedModelError: a tensor of another type than float32, float16 or bfloat16.
    """
    return the_dtype(inspected.folder, inspected.shapes, inspected.types)


def load(inspected: Inspected, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> Any:
    """The stock model in evaluation mode.

    Args:
        dtype: None keeps the types that weights are stored in; on the CPU they then stay in the files, which are mapped, and
            count as memory only while they are used.

    Raises:
        UnreadableModelError: tensors are missing, misshapen or not finite.
    """
    model = load_model(inspected.folder, inspected.model_type, dtype or storage_dtype(inspected))
    if dtype is None:
        keep_types(model, inspected.folder)
        family = FAMILIES[inspected.model_type]
        views = (family.views(model.config, layer) for layer in family.layers(model))
        check_layers(inspected.folder, views, storage_dtype(inspected))
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        # Some configs claim tied embeddings beside a head of their own, which transformers then loads untied.
        model.config.tie_word_embeddings = False
    return model.to(device).eval()


def model_config(folder: Path) -> Any:
    """The config as a class that is known here, without the code that it names: nobody after this can follow it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def load_model(folder: Path, family: str, dtype: torch.dtype) -> Any:
    """The folder's model on the CPU by a class that is known here, every tensor there, of its size, and finite.

    Raises:
        UnreadableModelError: tensors are missing, misshapen or not finite, or the config cannot be used.
    """
    name, attention = called(folder), FAMILIES[family].attention_implementation
    try:
        config = model_config(folder)
        # What the file says would go before an argument.
        config._attn_implementation, config.return_dict = attention, True
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises anything for a config it does not like
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        if "mismatched" in text:
            reason = "its tensors have other sizes than config.json says"
        raise UnreadableModelError(f"{name}: the model does not load: {reason}") from None
    problems = {
        "missing": report["missing_keys"],
        "misshapen": report["mismatched_keys"],
        "not part of this model": [key for key in report["unexpected_keys"] if not HARMLESS.search(key)],
    }
    for problem, keys in problems.items():
        if keys:
            raise UnreadableModelError(
                f"{name}: {len(keys)} tensors are {problem}, first {min(map(str, keys))}"
            )
    for tensor_name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UnreadableModelError(f"{name}: {tensor_name} holds NaN or infinite values")
    return model
