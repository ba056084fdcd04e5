"""The source's own class, which every engine knows: what its config can say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.targets.target import Target


class Stock(Target):
    """K 2 head_dim numbers per token and layer: one size of heads and one of MLPs, as the config names them."""

    name = "stock"
    help = "The source's own class without code of ours, in every engine: attention whole, one MLP rank for all layers."
    exports = ("stock",)
    whole: ClassVar[tuple[Component, ...]] = ("qk", "ov")
    rules: ClassVar[Mapping[Component, str]] = {
        "qk": "the full rank: a stock attention rotates and scales whole heads",
        "ov": "the full rank: values have the size of keys",
    }
    tie_rules: ClassVar[Mapping[Component, str]] = {
        "mlp": "one rank in all layers: its config has one number",
    }

    def refusal(self, geometry: Geometry) -> str | None:
        return "MPT's own class has one fixed size of MLP" if geometry.family == "mpt" else None

    def ties(self, geometry: Geometry) -> tuple[Component, ...]:
        return ("mlp",)
