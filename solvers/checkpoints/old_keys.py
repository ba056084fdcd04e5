"""The keys of config.json for readers before transformers 5, beside the new ones.

transformers 5 keeps all of rotary positions in ``rope_parameters``. transformers 4, vLLM and converters to GGUF look for
``rope_theta`` and ``rope_scaling``, and where they find neither they take a theta of 10,000 without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from solvers.modeling_rankalloc import source_type

_BESIDE = ("rope_theta", "partial_rotary_factor", "rope_type", "type")
"""Keys of ``rope_parameters`` that are none of ``rope_scaling``'s own."""

WITHOUT_CODE = {"without_code": {"model_type": ""}}
"""A nested config of no family, which AutoTokenizer reads of a compact checkpoint whose code is not trusted. Without it the
whole file would be taken for a config of no family, which warns, or fails at scaled positions."""


def rotary_keys(config: Any) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and what else a family's older config class has; empty without rotary positions."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return {}
    family = source_type(config)
    if family == "gemma3_text":  # two thetas; only layers without a window are scaled
        full, local = parameters["full_attention"], parameters["sliding_attention"]
        thetas = {"rope_theta": full["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
        return thetas | {"rope_scaling": _scaling(config, full)}
    keys = {"rope_theta": parameters["rope_theta"], "rope_scaling": _scaling(config, parameters)}
    share = parameters.get("partial_rotary_factor")
    if family == "gpt_neox":
        keys |= {"rotary_emb_base": parameters["rope_theta"], "rotary_pct": share}
    elif share is not None:
        keys["partial_rotary_factor"] = share
    return keys


def _scaling(config: Any, parameters: dict[str, Any]) -> dict[str, Any] | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return None
    own = {name: value for name, value in parameters.items() if name not in _BESIDE}
    if source_type(config) == "phi3":  # its older class takes these three keys and refuses a fourth
        own.pop("original_max_position_embeddings", None)
        return {"type": kind, **own}
    if kind == "yarn" and own.get("original_max_position_embeddings") == config.max_position_embeddings:
        # transformers 5 fills it in; where it is there, older readers take the factor from the two lengths.
        del own["original_max_position_embeddings"]
    return {"rope_type": kind, "type": kind, **own}


def add_old_keys(folder: Path, config: Any, dtype: str, **extra: Any) -> None:
    """Put the keys of older readers, and ``extra``, into the folder's config.json, whose tensors are mostly of ``dtype``."""
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"dtype": dtype, "torch_dtype": dtype, **rotary_keys(config), **extra}
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
