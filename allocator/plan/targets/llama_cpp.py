"""llama.cpp, whose graphs leave some sizes free, and which of them depends on the family.

    QK                 dense everywhere: all heads are rotated by one set of frequencies
    MLP by layer       llama, mistral and qwen2 without windows, qwen3 with tied embeddings; OV is dense then
    OV of one rank     llama, mistral, qwen2, qwen3 without biases on outputs and in MLPs; the MLPs have one rank then
    gemma, 2 and 3     OV dense, MLPs of one rank

Of every layer it allocates K and V in float16 (``llama_kv_cache`` in ``src/llama-kv-cache.cpp``), for the context rounded up
to 256, and of layers with a window W at most W + 512 (a batch) rounded up likewise.

Q8_0 holds whole blocks of 32 numbers of a row; a matrix of other rows stays in float16 (``solvers.gguf.files``), which takes
nearly twice the bytes. What that asks of each rank:

    MLP    ``down_proj`` has rows of the rank itself. They are multiples of 32; the full rank stays as the source has it.
    OV     ``o_proj`` has rows of heads * r_ov. Nothing is asked: it is a small part of a layer, and with an odd number of
           heads only every 32nd rank would be left. ``--align ov=N`` asks for it, with N * heads a multiple of 32.
    QK     whole, and its rows, like those of ``v_proj``, gate and up, are as long as the hidden size.

Values need no multiple in a cache in float16. A cache in eight bits has blocks of 32 of each head: ``--align ov=32``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.targets.target import Target

GGUF = "gguf"
"""The kind of checkpoint that it loads."""
GEMMAS = ("gemma", "gemma2", "gemma3_text")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", *GEMMAS)
_CELLS = 256
_BATCH = 512
_FLOAT16 = 2
_BLOCK = 32
"""Numbers that Q8_0 keeps under one scale."""


class LlamaCpp(Target):
    """K (head_dim + r_ov) float16 numbers per token and layer."""

    exports = (GGUF,)
    multiples: ClassVar[Mapping[Component, int]] = {"mlp": _BLOCK}
    rules: ClassVar[Mapping[Component, str]] = {
        "qk": "the full rank: all heads are rotated by one set of frequencies",
        "ov": "the full rank beside MLPs that differ: no graph takes both",
        "mlp": f"multiples of {_BLOCK} or the full rank: rows of down_proj are whole blocks of Q8_0",
    }
    tie_rules: ClassVar[Mapping[Component, str]] = {"mlp": "one rank in all layers of this family"}

    def refusal(self, geometry: Geometry) -> str | None:
        if geometry.family not in FAMILIES:
            return f"files are written for {', '.join(FAMILIES)}, not for {geometry.family}"
        if geometry.qk_bias and geometry.family in ("qwen3", *GEMMAS):
            return f"its {geometry.family} has no biases in attention"
        return None

    def own_width(self, geometry: Geometry) -> int:
        return _FLOAT16

    def positions(self, geometry: Geometry, layer: int, context: int) -> int:
        rounded = -(-context // _CELLS) * _CELLS
        window = geometry.windows[layer] if geometry.windows else 0
        return min(rounded, -(-(window + _BATCH) // _CELLS) * _CELLS) if 0 < window < context else rounded


def _has_head(geometry: Geometry) -> bool:
    """Whether the head is a matrix of its own beside the embeddings."""
    matrices = (size for c in COMPONENTS for size in geometry.matrices(c, geometry.full_rank(c)))
    blocks = geometry.layers * sum(inputs * outputs for inputs, outputs in matrices)
    return geometry.total_params - blocks >= 2 * geometry.vocab * geometry.hidden


class FreeMLP(LlamaCpp):
    """An MLP rank of its own in every layer, where the family has a graph for it."""

    name = "llama.cpp"
    help = (
        "llama.cpp, through a GGUF file: attention whole, MLPs of any multiple of 32 by layer"
        " (one rank where the family has no such graph)."
    )
    whole: ClassVar[tuple[Component, ...]] = ("qk", "ov")

    def ties(self, geometry: Geometry) -> tuple[Component, ...]:
        windows = any(0 < window < geometry.max_positions for window in geometry.windows)
        head = geometry.family == "qwen3" and _has_head(geometry)
        return ("mlp",) if geometry.family in GEMMAS or windows or head else ()


class SmallerValues(LlamaCpp):
    """One rank of OV and one of MLPs: a smaller cache of values."""

    name = "llama.cpp-kv"
    help = "llama.cpp with a smaller cache of values: QK whole, one OV rank and one MLP rank, a multiple of 32, for all layers."
    whole: ClassVar[tuple[Component, ...]] = ("qk",)
    tie_rules: ClassVar[Mapping[Component, str]] = {
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
