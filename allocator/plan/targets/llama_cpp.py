"""llama.cpp, whose files hold one key and one value size for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.targets.target import Target


class LlamaCpp(Target):
    """K 2 head_dim numbers per token and layer: attention stays whole, the MLP is free in every layer."""

    name = "llama.cpp"
    help = "llama.cpp, through a GGUF file: attention whole, MLP ranks free in every layer."
    exports = ("compact",)
    rules: ClassVar[Mapping[Component, str]] = {
        "qk": "the full rank: the format has no place for pairs of its own by head",
        "ov": "the full rank: keys and values have one size",
    }

    def holds(self, geometry: Geometry, component: Component, rank: int) -> bool:
        return component == "mlp" or rank == geometry.full_rank(component)

    def cached_bytes(self, geometry: Geometry, width: int, component: Component, rank: int) -> int:
        return 0 if component == "mlp" else geometry.kv_heads * rank * width
