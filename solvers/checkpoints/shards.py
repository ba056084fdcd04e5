"""The files that hold a model's weights, and what their headers say: names, shapes and types, read before any weight is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from solvers.errors import UnreadableModelError
from solvers.folder import called, inside, once, read_json

_INDEX_LIMIT_BYTES = 64 << 20
_HEADER_LIMIT_BYTES = 16 << 20
"""The limit of one shard: about 100,000 tensors. As objects a header takes some thirty times of that."""

HARMLESS = re.compile(r"(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)$")
"""Tensors of older exports that no current class loads: constants, recomputed."""
_INTEGERS = {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}
_PICKLES = "pytorch_model*.bin"
CONVERT = (
    'python -c "import pathlib, sys, torch, safetensors.torch as st; f = pathlib.Path(sys.argv[1]);'
    " st.save_file({k: v.contiguous().clone() for p in sorted(f.glob('pytorch_model*.bin'))"
    " for k, v in torch.load(p, map_location='cpu', weights_only=True).items()},"
    " f / 'model.safetensors', metadata={'format': 'pt'})\" path/to/model"
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
            if entry["dtype"] not in _INTEGERS and not HARMLESS.search(name):
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
        if not (folder / single).exists() and any(folder.glob(_PICKLES)):
            raise UnreadableModelError(
                f"{called(folder)}: holds its weights as pickles only (pytorch_model.bin), which may run code when they are"
                f" opened; this writes safetensors and runs none: {CONVERT}"
            )
        return (inside(folder, single),)
    if (folder / single).exists():
        raise UnreadableModelError(
            f"{called(folder)}: holds both {single} and {index}; keep the one that is meant"
        )
    names = read_json(folder, index, _INDEX_LIMIT_BYTES).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UnreadableModelError(f"{called(folder)}: {index} has no usable weight_map")
    return tuple(inside(folder, name) for name in sorted(set(names.values())))


def places_of(shards: Iterable[Path]) -> dict[str, Path]:
    """Tensor name -> the file that it lies in."""
    places: dict[str, Path] = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), shard)
    return places
