"""Check the sizes that config.json claims before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from solvers.errors import UnreadableModelError, UnsupportedModelError

_LLAMA = {
    "hidden": ("hidden_size",),
    "intermediate": ("intermediate_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads", "num_attention_heads"),
    "vocab": ("vocab_size",),
    "positions": ("max_position_embeddings",),
}
_GPT2 = {
    "hidden": ("n_embd", "hidden_size"),
    "layers": ("n_layer", "num_hidden_layers"),
    "heads": ("n_head", "num_attention_heads"),
    "vocab": ("vocab_size",),
    "positions": ("n_positions", "max_position_embeddings"),
}
_NAMES = {"llama": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT2}
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_LARGEST_HEAD = 512
"""A compact checkpoint names rotary pairs in one byte each."""

_REFUSED: dict[str, tuple[Any, str]] = {
    "use_sliding_window": (True, "the cost model does not know sliding windows yet"),
    "add_cross_attention": (True, "cross attention is not a decoder-only model"),
    "is_causal": (False, "only causal models are supported"),
}


def checked_sizes(
    name: str, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """The sizes of a model, agreeing with its tensors' headers.

    Args:
        name: the folder's name, for errors.
        shapes: tensor name -> shape, from the headers.

    Raises:
        UnreadableModelError: a size is missing, no whole number, or not that of the tensors.
        UnsupportedModelError: an option that no adapter handles.
    """
    model_type = config["model_type"]
    for key, (value, why) in _REFUSED.items():
        if config.get(key) is value:
            raise UnsupportedModelError(f"{name}: config.json sets {key} to {str(value).lower()}: {why}")
    if "transformers_weights" in config:
        raise UnsupportedModelError(
            f"{name}: config.json redirects the weights (transformers_weights); remove that key"
        )
    sizes = {size: _whole(name, config, keys) for size, keys in _NAMES[model_type].items()}
    kv_heads = sizes.get("kv_heads", sizes["heads"])
    if sizes["heads"] % kv_heads:
        raise UnreadableModelError(
            f"{name}: {sizes['heads']} heads cannot share {kv_heads} key/value heads evenly"
        )
    head_dim = config.get("head_dim")
    if head_dim is None or model_type == "gpt2":
        if sizes["hidden"] % sizes["heads"]:
            raise UnreadableModelError(
                f"{name}: hidden size {sizes['hidden']} is no multiple of {sizes['heads']} heads"
            )
        head_dim = sizes["hidden"] // sizes["heads"]
    if not isinstance(head_dim, int) or head_dim < 1 or head_dim > _LARGEST_HEAD:
        raise UnsupportedModelError(
            f"{name}: head_dim {head_dim!r}; it must be a whole number up to {_LARGEST_HEAD}"
        )
    if model_type != "gpt2" and head_dim % 2:
        raise UnreadableModelError(f"{name}: head_dim {head_dim} is odd; rotary positions need pairs")
    _compare(name, sizes, shapes)
    return sizes


def _whole(name: str, config: Mapping[str, Any], keys: Sequence[str]) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), None)
    if type(value) is not int or value < 1:
        raise UnreadableModelError(
            f"{name}: config.json: {keys[0]} is {value!r}; it must be a whole number of at least 1"
        )
    return value


def _compare(name: str, sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> None:
    layers = {int(match[1]) for match in map(_LAYER.search, shapes) if match}
    if layers != set(range(len(layers))) or len(layers) != sizes["layers"]:
        raise UnreadableModelError(
            f"{name}: config.json says {sizes['layers']} layers, the weights hold {len(layers)}"
        )
    for key, shape in shapes.items():
        if key.endswith(_EMBEDDINGS) and tuple(shape) != (sizes["vocab"], sizes["hidden"]):
            claimed = (sizes["vocab"], sizes["hidden"])
            raise UnreadableModelError(
                f"{name}: config.json says vocabulary x hidden {claimed}, the weights hold {tuple(shape)}"
            )
