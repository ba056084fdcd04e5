"""Check the sizes that config.json claims before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from solvers.errors import UnreadableModelError, UnsupportedModelError
from solvers.families import FAMILIES, Family
from solvers.modeling_rankalloc import WINDOW_BY_LAYER, WINDOW_EVERYWHERE

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.([0-9]{1,9})\.")
_LARGEST_HEAD = 512
"""A compact checkpoint names rotary pairs in one byte each."""
_MOST_BIASES = 1 << 20
"""Stock MPT makes its biases for ``max_seq_len`` positions in every forward pass."""

_REFUSED: dict[str, tuple[Any, str]] = {
    "add_cross_attention": (True, "cross attention is not a decoder-only model"),
    "is_encoder_decoder": (True, "only decoder-only models are supported"),
    "is_causal": (False, "only causal models are supported"),
    "use_bidirectional_attention": (True, "only causal models are supported"),
}
_REFUSED_BY_MPT: dict[str, tuple[Any, str]] = {
    "alibi": (False, "MPT without linear position biases has no class in transformers"),
    "qk_ln": (True, "norms over all heads of a layer are not supported"),
    "prefix_lm": (True, "only causal models are supported"),
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
    family = FAMILIES[config["model_type"]]
    _refuse(name, config, _REFUSED)
    sizes = {
        size: _whole_number(name, config, keys)
        for size, keys in family.size_keys.items()
        if size != "kv_heads"
    }
    if "kv_heads" in family.size_keys:
        sizes["kv_heads"] = _kv_heads(name, family, config, sizes)
    head_dim = _head_dim(name, family, config, sizes)
    _check_rotation(name, family, config, head_dim)
    if family.model_type == "opt":
        _check_width(name, config.get("word_embed_proj_dim"), sizes["hidden"])
    _compare(name, sizes, shapes)  # from here on the number of layers is true
    _check_head(name, family, config, shapes)
    _check_windows(name, family, config, sizes["layers"])
    _check_options(name, family, config, sizes)
    return sizes


def _refuse(name: str, config: Mapping[str, Any], refused: Mapping[str, tuple[Any, str]]) -> None:
    for key, (value, why) in refused.items():
        if config.get(key) is value:
            raise UnsupportedModelError(f"{name}: config.json sets {key} to {str(value).lower()}: {why}")


def _check_head(
    name: str, family: Family, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> None:
    if _config_value(family, config, "tie_word_embeddings") is not False or any(map(_is_head, shapes)):
        return
    says = (
        "says tie_word_embeddings false" if "tie_word_embeddings" in config else "says no tie_word_embeddings"
    )
    raise UnreadableModelError(
        f'{name}: config.json {says}, and the weights hold no {_HEADS[0]}: set "tie_word_embeddings": true in'
        " config.json where the head is the embedding, else download the file that holds it"
    )


def _is_head(tensor: str) -> bool:
    return tensor.endswith(_HEADS)


def _whole_number(name: str, config: Mapping[str, Any], keys: Sequence[str]) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), None)
    if type(value) is not int or value < 1:
        raise UnreadableModelError(
            f"{name}: config.json: {keys[0]} is {value!r}; it must be a whole number of at least 1"
        )
    return value


def _config_value(family: Family, config: Mapping[str, Any], key: str) -> Any:
    """A value of config.json, or what the stock config class takes where it is absent."""
    return config[key] if key in config else getattr(family.compact[0], key, None)


def _kv_heads(name: str, family: Family, config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    (key,) = family.size_keys["kv_heads"]
    if _config_value(family, config, key) is None:
        return sizes["heads"]
    kv_heads = _whole_number(name, {key: _config_value(family, config, key)}, (key,))
    if sizes["heads"] % kv_heads:
        raise UnreadableModelError(
            f"{name}: {sizes['heads']} heads cannot share {kv_heads} key/value heads evenly"
        )
    return kv_heads


def _head_dim(name: str, family: Family, config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    # Families without grouped queries have no head size of their own.
    head_dim = _config_value(family, config, "head_dim") if "kv_heads" in family.size_keys else None
    if head_dim is None:
        if sizes["hidden"] % sizes["heads"]:
            raise UnreadableModelError(
                f"{name}: hidden size {sizes['hidden']} is no multiple of {sizes['heads']} heads"
            )
        head_dim = sizes["hidden"] // sizes["heads"]
    if type(head_dim) is not int or head_dim < 1 or head_dim > _LARGEST_HEAD:
        raise UnsupportedModelError(
            f"{name}: head_dim {head_dim!r}; it must be a whole number up to {_LARGEST_HEAD}"
        )
    return head_dim


def _check_rotation(name: str, family: Family, config: Mapping[str, Any], head_dim: int) -> None:
    if family.model_type in ("gpt2", "opt", "mpt"):
        return
    scaling = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    places = [config, *(place for place in scaling if isinstance(place, dict))]
    shares = [place.get(key) for place in places for key in ("partial_rotary_factor", "rotary_pct")]
    share = next((value for value in shares if value is not None), None)
    if share is None:
        share = 0.25 if family.model_type == "gpt_neox" else 1.0
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise UnreadableModelError(f"{name}: the rotated share of a head is {share!r}; it must be in (0, 1]")
    if share != 1 and not family.partial_rotary:
        raise UnsupportedModelError(
            f"{name}: {family.model_type} models that rotate only a part of each head are not supported"
        )
    rotated = int(head_dim * share)
    if rotated % 2 or rotated == 0:
        raise UnreadableModelError(
            f"{name}: head_dim {rotated} is odd or zero where it is rotated; rotary positions need pairs"
        )


def _check_windows(name: str, family: Family, config: Mapping[str, Any], layers: int) -> None:
    window, kind = _config_value(family, config, "sliding_window"), family.model_type
    if kind in ("qwen2", "qwen3") and not config.get("use_sliding_window"):
        window = None
    used = kind in WINDOW_EVERYWHERE or kind in WINDOW_BY_LAYER
    if window is not None and not used:
        raise UnsupportedModelError(f"{name}: {kind} models with a sliding window are not supported")
    if window is not None and (type(window) is not int or window < 2):
        raise UnreadableModelError(
            f"{name}: sliding_window is {window!r}; it must be null or a whole number of at least 2"
        )
    kinds = config.get("layer_types")
    if kinds is None:
        return
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise UnreadableModelError(f"{name}: layer_types must name one kind for each of the {layers} layers")
    allowed = {"full_attention"}
    if kind in WINDOW_BY_LAYER:
        allowed.add("sliding_attention")
    elif window is not None:
        allowed = {"sliding_attention"}
    for layer_kind in kinds:
        if not isinstance(layer_kind, str) or layer_kind not in allowed:
            raise UnsupportedModelError(
                f"{name}: a layer of kind {layer_kind!r} in a {kind} model is not supported; here: {', '.join(sorted(allowed))}"
            )
        if layer_kind == "sliding_attention" and window is None:
            raise UnreadableModelError(f"{name}: layers have a window but sliding_window is null")


def _check_options(name: str, family: Family, config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    if family.model_type == "mixtral" and sizes["active_experts"] > sizes["experts"]:
        raise UnreadableModelError(
            f"{name}: {sizes['active_experts']} experts of {sizes['experts']} cannot run for a token"
        )
    if family.model_type == "mpt":
        if sizes["positions"] > _MOST_BIASES:
            raise UnreadableModelError(
                f"{name}: max_seq_len {sizes['positions']}: position biases for more than {_MOST_BIASES} are not made"
            )
        attention = config.get("attn_config") or {}
        if not isinstance(attention, dict):
            raise UnreadableModelError(f"{name}: attn_config must be an object")
        _refuse(name, attention, _REFUSED_BY_MPT)
        if attention.get("clip_qkv"):
            raise UnsupportedModelError(
                f"{name}: clip_qkv bounds every query, key and value, which no smaller basis keeps"
            )


def _check_width(name: str, width: Any, hidden: int) -> None:
    if width is not None and width != hidden:
        raise UnsupportedModelError(
            f"{name}: OPT whose embeddings are of another width (word_embed_proj_dim {width!r}) than its layers"
            f" ({hidden}) is not supported"
        )


def _compare(name: str, sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int]]) -> None:
    layers = {int(match[1]) for match in map(LAYER.search, shapes) if match}
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
