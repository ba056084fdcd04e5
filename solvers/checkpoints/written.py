"""Read a compact checkpoint that somebody hands over: as carefully as a source model, and never by the code beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solvers.checkpoints.detours import weight_files
from solvers.checkpoints.reading import load_model
from solvers.checkpoints.stored_types import check_layers, keep_types, the_dtype
from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES
from solvers.folder import COMPANION_LIMIT_BYTES, CONFIG_LIMIT_BYTES, called, inside, read_json
from solvers.modeling_rankalloc import COMPACT_PREFIX

_LEAST_POSITIONS = 2


def is_compact(folder: Path) -> bool:
    """Whether a folder's config.json calls it a compact checkpoint. Raises UnreadableModelError."""
    if not folder.is_dir():
        raise UnreadableModelError(f"{folder}: no such folder; name a Hugging Face model folder")
    model_type = read_json(folder, "config.json", CONFIG_LIMIT_BYTES).get("model_type")
    return isinstance(model_type, str) and model_type.startswith(COMPACT_PREFIX)


def load_written(folder: Path) -> Any:
    """A compact checkpoint in evaluation mode and in the types that it is stored in, through this package's own classes.

    Raises:
        UnreadableModelError: something is missing, corrupt or leads outside.
        UnsupportedModelError: it is none, of a family that this version does not know, or quantized.
    """
    config = read_json(folder, "config.json", CONFIG_LIMIT_BYTES)
    model_type = str(config.get("model_type"))
    family = model_type.removeprefix(COMPACT_PREFIX)
    if family == model_type or family not in FAMILIES:
        raise UnsupportedModelError(
            f"{called(folder)}: {model_type[:80]!r} is no compact checkpoint of this version"
        )
    _, shapes, types = weight_files(
        folder, config, if_quantized="is quantized; name the checkpoint that it was made from"
    )
    inside(folder, "tokenizer.json", limit_bytes=COMPANION_LIMIT_BYTES)
    dtype = the_dtype(folder, shapes, types)
    model = load_model(folder, family, dtype).eval()
    keep_types(model, folder)
    layers = range(len(FAMILIES[family].layers(model)))
    check_layers(folder, (FAMILIES[family].read(model, index) for index in layers), dtype)
    _check_pairs(called(folder), model)
    positions = FAMILIES[family].max_positions(model.config)
    if positions < _LEAST_POSITIONS:
        raise UnreadableModelError(
            f"{called(folder)}: config.json: {positions} positions; a text needs {_LEAST_POSITIONS}"
        )
    return model


def _check_pairs(name: str, model: Any) -> None:
    """Kept rotary pairs are indices into the source's."""
    for path, module in model.named_modules():
        pairs = getattr(module, "pairs", None)
        if pairs is not None and pairs.numel() and int(pairs.max()) >= module.rotary_pairs:
            raise UnreadableModelError(
                f"{name}: {path}.pairs names rotary pair {int(pairs.max())}; there are {module.rotary_pairs}"
            )
