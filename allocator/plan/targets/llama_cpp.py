"""llama.cpp, whose graphs leave some sizes free, and which of them depends on the family.

    QK                 dense everywhere: all heads are rotated by one set of frequencies
    MLP by layer       llama, mistral and qwen2 without windows, qwen3 with tied embeddings; OV is dense then
    OV of one rank     llama, mistral, qwen2, qwen3 without biases on outputs and in MLPs; the MLPs have one rank then
    gemma, 2 and 3     OV dense, MLPs of one rank

Of every layer it allocates K and V in float16 (``llama_kv_cache`` in ``src/llama-kv-cache.cpp``), for the context rounded up
to 256, and of layers with a window W at most W + 512 (a batch) rounded up likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.targets.target import Target

GEMMAS = ("gemma", "gemma2", "gemma3_text")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", *GEMMAS)
_CELLS = 256
_BATCH = 512
_FLOAT16 = 2


class LlamaCpp(Target):
    """K (head_dim + r_ov) float16 numbers per token and layer."""

    exports = ("gguf",)
    rules: ClassVar[Mapping[Component, str]] = {
        "qk": "the full rank: all heads are rotated by one set of frequencies",
        "ov": "the full rank beside MLPs that differ: no graph takes both",
        "mlp": "one rank in all layers of this family",
    }

    def refusal(self, geometry: Geometry) -> str | None:
        if geometry.family not in FAMILIES:
            return f"files are written for {', '.join(FAMILIES)}, not for {geometry.family}"
        if geometry.qk_bias and geometry.family in ("qwen3", *GEMMAS):
            return f"its {geometry.family} has no biases in attention"
        return None

    def own_width(self, geometry: Geometry) -> int:
        return _FLOAT16

    def positions(self, geometry: Geometry, layer: int, context: int) -> int:
        whole = -(-context // _CELLS) * _CELLS
        window = geometry.windows[layer] if geometry.windows else 0
        return min(whole, -(-(window + _BATCH) // _CELLS) * _CELLS) if 0 < window < context else whole


def _has_head(geometry: Geometry) -> bool:
    """Whether the head is a matrix of its own beside the embeddings."""
    matrices = (size for c in COMPONENTS for size in geometry.matrices(c, geometry.full_rank(c)))
    blocks = geometry.layers * sum(inputs * outputs for inputs, outputs in matrices)
    return geometry.total_params - blocks >= 2 * geometry.vocab * geometry.hidden


class FreeMLP(LlamaCpp):
    """MLPs of any rank in every layer, where the family has a graph for it."""

    name = "llama.cpp"
    help = "llama.cpp, through a GGUF file: attention whole, MLPs free by layer (one rank where the family has no such graph)."
    whole: ClassVar[tuple[Component, ...]] = ("qk", "ov")

    def ties(self, geometry: Geometry) -> tuple[Component, ...]:
        windows = any(0 < window < geometry.max_positions for window in geometry.windows)
        head = geometry.family == "qwen3" and _has_head(geometry)
        return ("mlp",) if geometry.family in GEMMAS or windows or head else ()


class SmallerValues(LlamaCpp):
    """One rank of OV and one of MLPs: a smaller cache of values."""

    name = "llama.cpp-kv"
    help = "llama.cpp with a smaller cache of values: QK whole, one OV rank and one MLP rank for all layers."
    whole: ClassVar[tuple[Component, ...]] = ("qk",)
    rules: ClassVar[Mapping[Component, str]] = {
        **LlamaCpp.rules,
        "ov": "one rank in all layers: values have one size",
        "mlp": "one rank in all layers: its graph with smaller values has one",
    }

    def ties(self, geometry: Geometry) -> tuple[Component, ...]:
        return ("ov", "mlp")

    def refusal(self, geometry: Geometry) -> str | None:
        biased = geometry.mlp_bias or (geometry.family == "llama" and geometry.ov_bias)
        if geometry.family in GEMMAS or biased:
            return f"its {geometry.family}, with these biases if there are any, has values as large as keys: use llama.cpp"
        return super().refusal(geometry)
