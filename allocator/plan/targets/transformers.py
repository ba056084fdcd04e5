"""Plain transformers: the checkpoint's own tensors and nothing around them."""

from __future__ import annotations

from allocator.plan.model.precision import LATENTS
from allocator.plan.targets.target import Target


class Transformers(Target):
    """Every rank; K (r_qk + r_ov) numbers per token and layer."""

    name = "transformers"
    help = "Every rank in every layer; the cache holds the ranks themselves."
    exports = ("compact",)
    bits = True
    latents = tuple(LATENTS)
