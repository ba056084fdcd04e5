"""Ranks of every layer, and the bits that weights are held in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import Bits, bits_of


@dataclass(frozen=True)
class Ranks:
    """Ranks of every layer, layer by layer, and the bits that weights are held in.

    ``bits`` has a row (qk, ov, mlp) for every layer; it is empty where every component is in the checkpoint's own type.
    """

    qk: tuple[int, ...]
    ov: tuple[int, ...]
    mlp: tuple[int, ...]
    bits: tuple[tuple[Bits, ...], ...] = field(default=(), kw_only=True)

    def of(self, component: Component) -> tuple[int, ...]:
        return {"qk": self.qk, "ov": self.ov, "mlp": self.mlp}[component]

    def bits_of(self, component: Component) -> tuple[Bits, ...]:
        """Of every layer."""
        if not self.bits:
            return (None,) * len(self.qk)
        spot = COMPONENTS.index(component)
        return tuple(row[spot] for row in self.bits)

    def at(self, layer: int, component: Component) -> tuple[int, Bits]:
        """Rank and bits."""
        bits = self.bits[layer][COMPONENTS.index(component)] if self.bits else None
        return self.of(component)[layer], bits

    def with_bits(self, bits: Sequence[Sequence[Bits]]) -> Ranks:
        """The same ranks with a row (qk, ov, mlp) of bits for every layer."""
        rows = tuple(tuple(row) for row in bits)
        return replace(self, bits=rows if any(each is not None for row in rows for each in row) else ())

    @classmethod
    def dense(cls, geometry: Geometry) -> Ranks:
        return cls(*(tuple([geometry.full_rank(c)] * geometry.layers) for c in COMPONENTS))

    @classmethod
    def from_layers(cls, layers: Sequence[dict[str, Any]]) -> Ranks:
        """From a plan's ``ranks``: [{layer, qk, ov, mlp, bits}, ...] in layer order, ``bits`` where there are some."""
        ranks = cls(*(tuple(row[c] for row in layers) for c in COMPONENTS))
        return ranks.with_bits([[bits_of(row).get(c) for c in COMPONENTS] for row in layers])

    def layers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"layer": index, "qk": qk, "ov": ov, "mlp": mlp}
            for index, (qk, ov, mlp) in enumerate(zip(self.qk, self.ov, self.mlp, strict=True))
        ]
        for row, bits in zip(rows, self.bits, strict=False):
            named = {c: each for c, each in zip(COMPONENTS, bits, strict=True) if each is not None}
            if named:
                row["bits"] = named
        return rows
