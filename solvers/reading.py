"""Read a model folder that nobody vouches for: no code is run, nothing outside the folder is touched.

``inspect`` looks at names, sizes and headers only; ``load`` gives the model. Both refuse with one sentence that names the
thing and the way out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

from solvers.companions import companions
from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES
from solvers.folder import COMPANION_LIMIT_BYTES, CONFIG_LIMIT_BYTES, called, inside, once, read_json
from solvers.modeling_rankalloc import COMPACT_PREFIX
from solvers.sizes import LAYER, checked_sizes
from solvers.weights import LayerWeights

_INDEX_LIMIT_BYTES = 64 << 20
_HEADER_LIMIT_BYTES = 16 << 20
"""Of one shard: about 100,000 tensors. As objects a header takes some thirty times of that."""

_HARMLESS = re.compile(r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)$")
"""Tensors of older exports that no current class loads: constants, recomputed."""
_IRRELEVANT = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"),
    *("use_cache", "cache_implementation", "auto_map"),
)
_INTEGERS = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}
_IMPLEMENTATIONS = (
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "grouped_mm",
    "batched_mm",
)
"""What configs in the world name and what is no name of a repository; ours is set in its place."""
_GENERATION = frozenset(GenerationConfig().to_dict())
"""Keys of defaults for ``generate``, which older configs keep beside the sizes: no value of theirs is fetched or run."""
_DISTRIBUTED = re.compile(r"shard-[0-9]+-model-[0-9]+-of-[0-9]+\.safetensors$")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
ONE_TYPE = 'convert all to one: AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(another)'


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
        """What of the folder is not used though it asks to be, as a sentence."""
        return aside(self.config)

    @property
    def config_sha256(self) -> str:
        """Hash of everything in config.json that can change the function (not names, versions or storage type)."""
        kept = {key: value for key, value in self.config.items() if key not in _IRRELEVANT}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


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
    known = ", ".join(sorted(FAMILIES))
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"{called(folder)}: model family {model_type!r} is not supported; supported: {known}"
        )
    if model_type.startswith(COMPACT_PREFIX):
        raise UnsupportedModelError(
            f"{called(folder)}: already compressed by rankalloc; compress its dense source instead"
        )
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"{called(folder)}: model family {model_type!r} is not supported; supported: {known}"
        )
    refuse_detours(folder, config)
    if config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            f"{called(folder)}: quantized weights cannot be compressed; name the unquantized model"
        )
    shards = shards_of(folder)
    shapes, types = headers(folder, shards)
    inside(folder, "tokenizer.json", limit_bytes=COMPANION_LIMIT_BYTES)
    companions(folder, model_type)  # what could not travel along is refused before there is any work
    sizes = checked_sizes(called(folder), config, shapes)
    return Inspected(folder, model_type, config, shards, sizes, shapes, types)


def aside(config: dict[str, Any]) -> str | None:
    """What is said of a model's config.json that names code (``auto_map``) for a family that is known here."""
    family = config.get("model_type")
    if "auto_map" not in config or family not in FAMILIES:
        return None
    return f"config.json names code of its own (auto_map): left aside, {family} is transformers' own here"


def aside_of(folder: Path) -> str | None:
    """`aside` of a folder. Raises UnreadableModelError."""
    return aside(read_json(folder, "config.json", CONFIG_LIMIT_BYTES))


def refuse_detours(folder: Path, config: dict[str, Any]) -> None:
    """Refuse what would have transformers load something else than the weights that are named, checked and hashed here.

    Raises:
        UnsupportedModelError: naming the key or the file.
    """
    for key, value in config.items():
        if "implementation" not in key or key in _GENERATION:
            continue
        if not (value is None or isinstance(value, bool) or value in _IMPLEMENTATIONS):
            raise UnsupportedModelError(
                f"{called(folder)}: config.json asks for code of another repository ({key}), which is never run"
            )
    cache = config.get("cache_implementation")
    if cache is not None and cache not in ALL_CACHE_IMPLEMENTATIONS:
        raise UnsupportedModelError(
            f"{called(folder)}: config.json: cache_implementation {cache!r} is no kind of cache;"
            f" remove the key, or use one of {', '.join(ALL_CACHE_IMPLEMENTATIONS)}"
        )
    if "transformers_weights" in config:
        raise UnsupportedModelError(
            f"{called(folder)}: config.json redirects the weights (transformers_weights); remove that key"
        )
    for file in folder.iterdir():
        if file.name == "adapter_config.json":
            raise UnsupportedModelError(
                f"{called(folder)}: holds an adapter (adapter_config.json); merge it into the weights first, or remove it"
            )
        if _DISTRIBUTED.match(file.name):
            raise UnsupportedModelError(
                f"{called(folder)}: {file.name} is of a distributed checkpoint, which would be loaded in place of the"
                " other files; consolidate it, or remove it"
            )


def headers(folder: Path, shards: tuple[Path, ...]) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Tensor name -> shape, and tensor name -> storage type for the floating tensors that count.

    Raises:
        UnreadableModelError: a file is not sound, or a tensor is in two of them.
    """
    shapes: dict[str, list[int]] = {}
    types: dict[str, str] = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt"):  # checks offsets against shapes, types and the file's size
                header = _header(shard)
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:  # too large to map
            raise UnreadableModelError(
                f"{called(folder)}: {shard.name} is not a sound safetensors file ({error}); download it again"
            ) from None
        for name, entry in header.items():
            if name in shapes:
                raise UnreadableModelError(
                    f"{called(folder)}: {name} is in {shard.name} and in another file; which one is meant?"
                )
            shapes[name] = entry["shape"]
            if entry["dtype"] not in _INTEGERS and not _HARMLESS.search(name):
                types[name] = entry["dtype"]
    return shapes, types


def _header(shard: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> {dtype, shape, data_offsets}. Raises ValueError where it is too long or names a tensor twice."""
    with shard.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _HEADER_LIMIT_BYTES:
            raise ValueError(f"its header has {size} bytes, at most {_HEADER_LIMIT_BYTES} are read")
        header: dict[str, dict[str, Any]] = json.loads(file.read(size), object_pairs_hook=once)
    header.pop("__metadata__", None)
    return header


def shards_of(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights; ambiguous folders are refused, since what is hashed must be what is loaded."""
    single, index = "model.safetensors", "model.safetensors.index.json"
    if not (folder / index).exists():
        return (inside(folder, single),)
    if (folder / single).exists():
        raise UnreadableModelError(
            f"{called(folder)}: holds both {single} and {index}; keep the one that is meant"
        )
    names = read_json(folder, index, _INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UnreadableModelError(f"{called(folder)}: {index} has no usable weight_map")
    return tuple(inside(folder, name) for name in sorted(set(names.values())))


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
    """The floating type of the layers' matrices.

    Raises:
        UnsupportedModelError: a tensor of another type than float32, float16 or bfloat16.
    """
    return the_dtype(inspected.folder, inspected.shapes, inspected.types)


def the_dtype(folder: Path, shapes: Mapping[str, Sequence[int]], types: Mapping[str, str]) -> torch.dtype:
    """The type of most numbers in the layers' matrices. Raises UnsupportedModelError."""
    found = set(types.values())
    if not found or not found <= _DTYPES.keys():
        raise UnsupportedModelError(
            f"{called(folder)}: weights are stored as {', '.join(sorted(found)) or 'nothing'};"
            f" allowed are {', '.join(_DTYPES)}"
        )
    counts: Counter[str] = Counter()
    for name, kind in types.items():
        counts[kind] += math.prod(shapes[name]) if LAYER.search(name) and len(shapes[name]) > 1 else 0
    return _DTYPES[counts.most_common(1)[0][0]]


def own_types(folder: Path, names: Iterable[str]) -> dict[str, torch.dtype]:
    """Those of a model's parameters that its folder stores in another type than the layers' matrices, such as norms.

    Args:
        names: the parameters' names in the model; in the file the base model's prefix may be absent, or there beside.

    Raises:
        UnsupportedModelError: a tensor of another type has another name once it is loaded.
    """
    return {name: _DTYPES[kind] for name, (_, kind) in _others(folder, names).items()}


def _others(folder: Path, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Parameter -> its tensor's name and type in the files, where that is not the type of the layers' matrices."""
    shapes, types = headers(folder, shards_of(folder))
    usual = the_dtype(folder, shapes, types)
    others = {name: kind for name, kind in types.items() if _DTYPES[kind] != usual}
    if not others:
        return {}
    known = list(names)
    bare = {name.partition(".")[2]: name for name in known if name.count(".") > 1} | {n: n for n in known}
    found = {}
    for tensor, kind in others.items():
        name = bare.get(tensor) or bare.get(tensor.partition(".")[2])
        if name is None:
            raise UnsupportedModelError(
                f"{called(folder)}: {tensor} is stored as {kind} beside {_NAMES[usual]}, and is no parameter by that name;"
                f" {ONE_TYPE}"
            )
        found[name] = (tensor, kind)
    return found


def keep_types(model: Any, folder: Path) -> None:
    """Give a model that was loaded in the type of its layers' matrices those tensors in their own that have another.

    Raises:
        UnsupportedModelError: one of them has another name once it is loaded.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    others = _others(folder, parameters)
    if not others:
        return
    places = {}
    for shard in shards_of(folder):
        with safe_open(shard, framework="pt") as file:
            places.update(dict.fromkeys(file.keys(), shard))
    for name, (tensor, _) in others.items():
        with safe_open(places[tensor], framework="pt") as file:
            parameters[name].data = file.get_tensor(tensor)


def load(inspected: Inspected, *, device: str = "cpu", dtype: torch.dtype | None = torch.float32) -> Any:
    """The stock model in evaluation mode.

    Args:
        dtype: None keeps the types that weights are stored in; on the CPU they then stay in the files, which are mapped, and
            count as memory only while they are used.

    Raises:
        UnreadableModelError: tensors are missing, misshapen or not finite.
    """
    model = loaded(inspected.folder, inspected.model_type, dtype or storage_dtype(inspected))
    if dtype is None:
        keep_types(model, inspected.folder)
        family = FAMILIES[inspected.model_type]
        views = (family.views(model.config, layer) for layer in family.layers(model))
        check_layers(inspected.folder, views, storage_dtype(inspected))
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        # Some configs claim tied embeddings beside a head of their own, which transformers then loads untied.
        model.config.tie_word_embeddings = False
    return model.to(device).eval()


def check_layers(folder: Path, layers: Iterable[LayerWeights], usual: torch.dtype) -> None:
    """Raises UnsupportedModelError where what is compressed of a layer is of another type than ``usual``."""
    for index, weights in enumerate(layers):
        tensors = weights.tensors().values()
        found = {_NAMES[tensor.dtype] for tensor in tensors if tensor.is_floating_point()}
        if found != {_NAMES[usual]}:
            raise UnsupportedModelError(
                f"{called(folder)}: layer {index}: attention and MLP are stored as {', '.join(sorted(found))}"
                f" among weights in {_NAMES[usual]}; {ONE_TYPE}"
            )


def model_config(folder: Path) -> Any:
    """The config as a class that is known here, without the code that it names: nobody after this can follow it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def loaded(folder: Path, family: str, dtype: torch.dtype) -> Any:
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
    wrong = {
        "missing": report["missing_keys"],
        "misshapen": report["mismatched_keys"],
        "not part of this model": [key for key in report["unexpected_keys"] if not _HARMLESS.search(key)],
    }
    for how, keys in wrong.items():
        if keys:
            raise UnreadableModelError(f"{name}: {len(keys)} tensors are {how}, first {min(map(str, keys))}")
    for tensor_name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UnreadableModelError(f"{name}: {tensor_name} holds NaN or infinite values")
    return model
