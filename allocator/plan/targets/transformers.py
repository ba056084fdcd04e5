"""Plain transformers: the checkpoint's own tensors and nothing around them."""

from __future__ import annotations

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.targets.target import Target


class Transformers(Target):
    """Every rank; K (r_qk + r_ov) numbers per token and layer."""

    name = "transformers"
    help = "Every rank in every layer; the cache holds the ranks themselves."
    exports = ("compact",)
    bits = True

    def cached_bytes(self, geometry: Geometry, width: int, component: Component, rank: int) -> int:
        return 0 if component == "mlp" else geometry.kv_heads * rank * width
