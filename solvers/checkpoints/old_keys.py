"""What config.json says in the words of readers before transformers 5, beside the new ones.

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
"""What AutoTokenizer reads of a compact checkpoint where its code is not trusted: it then takes a config of no family, and of
the whole file that would warn, or fail at scaled positions. Of a nested config of no family it takes nothing else."""


def rotary_keys(config: Any) -> dict[str, Any]:
    """``rope_theta``, ``rope_scaling`` and what else a family's older config class has; empty without rotary positions."""
    found = getattr(config, "rope_parameters", None)
    if not found:
        return {}
    family = source_type(config)
    if family == "gemma3_text":  # two thetas; only layers without a window are scaled
        whole, local = found["full_attention"], found["sliding_attention"]
        thetas = {"rope_theta": whole["rope_theta"], "rope_local_base_freq": local["rope_theta"]}
        return thetas | {"rope_scaling": _scaling(config, whole)}
    keys = {"rope_theta": found["rope_theta"], "rope_scaling": _scaling(config, found)}
    share = found.get("partial_rotary_factor")
    if family == "gpt_neox":
        keys |= {"rotary_emb_base": found["rope_theta"], "rotary_pct": share}
    elif share is not None:
        keys["partial_rotary_factor"] = share
    return keys


def _scaling(config: Any, found: dict[str, Any]) -> dict[str, Any] | None:
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return None
    own = {name: value for name, value in found.items() if name not in _BESIDE}
    if source_type(config) == "phi3":  # its older class takes these three keys and refuses a fourth
        own.pop("original_max_position_embeddings", None)
        return {"type": kind, **own}
    if kind == "yarn" and own.get("original_max_position_embeddings") == config.max_position_embeddings:
        # transformers 5 fills it in; where it is there, older readers take the factor from the two lengths.
        del own["original_max_position_embeddings"]
    return {"rope_type": kind, "type": kind, **own}


def add_old_keys(folder: Path, config: Any, dtype: str, **more: Any) -> None:
    """Put them, and ``more``, into the folder's config.json, whose tensors are mostly of ``dtype``."""
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written |= {"dtype": dtype, "torch_dtype": dtype, **rotary_keys(config), **more}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
