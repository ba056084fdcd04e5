"""Ranks of every layer, and the forms in which they are held: weight bits, latents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.layer import PlannedLayer
from allocator.plan.model.precision import LATENTS, Bits, Form, Latent, latent_rows


@dataclass(frozen=True)
class Ranks:
    """Ranks of every layer, layer by layer, and the forms in which they are held.

    ``bits`` has a row (qk, ov, mlp) for every layer; it is empty where every component is in the checkpoint's own type.
    ``latents`` says of every layer which it has; it is empty where none has any.
    """

    qk: tuple[int, ...]
    ov: tuple[int, ...]
    mlp: tuple[int, ...]
    bits: tuple[tuple[Bits, ...], ...] = field(default=(), kw_only=True)
    latents: tuple[frozenset[Latent], ...] = field(default=(), kw_only=True)

    def of(self, component: Component) -> tuple[int, ...]:
        return {"qk": self.qk, "ov": self.ov, "mlp": self.mlp}[component]

    def at(self, layer: int, component: Component) -> tuple[int, Form]:
        """Rank and form."""
        rank = self.of(component)[layer]
        for form in self.latents[layer] if self.latents else ():
            if LATENTS[form] == component:
                return rank, form
        return rank, self.bits[layer][COMPONENTS.index(component)] if self.bits else None

    def with_bits(self, bits: Sequence[Sequence[Bits]]) -> Ranks:
        """The same ranks with a row (qk, ov, mlp) of bits for every layer."""
        rows = tuple(tuple(row) for row in bits)
        return replace(self, bits=rows if any(width is not None for row in rows for width in row) else ())

    def with_latents(self, latents: Sequence[Iterable[Latent]]) -> Ranks:
        """The same ranks with these latents in every layer."""
        rows = tuple(map(frozenset, latents))
        return replace(self, latents=rows if any(rows) else ())

    @classmethod
    def dense(cls, geometry: Geometry) -> Ranks:
        return cls(*(tuple([geometry.full_rank(c)] * geometry.layers) for c in COMPONENTS))

    @classmethod
    def from_layers(cls, layers: Sequence[PlannedLayer]) -> Ranks:
        """From the rows of a document, in layer order."""
        ranks = cls(*(tuple(getattr(row, c) for row in layers) for c in COMPONENTS))
        bits = [[row.bits.get(c) for c in COMPONENTS] for row in layers]
        return ranks.with_bits(bits).with_latents([row.latents for row in layers])

    def widths(self) -> list[dict[str, int]]:
        """Layer by layer: component -> bits, of those that have some."""
        return [
            {c: bits for c, bits in zip(COMPONENTS, row, strict=True) if bits is not None}
            for row in self.bits or [(None,) * len(COMPONENTS)] * len(self.qk)
        ]

    def layers(self) -> list[dict[str, Any]]:
        """Rows of a document: [{layer, qk, ov, mlp, bits, ov_form, qk_form}, ...], the last three where there is something
        to say.
        """
        rows: list[dict[str, Any]] = [
            {"layer": index, "qk": qk, "ov": ov, "mlp": mlp}
            for index, (qk, ov, mlp) in enumerate(zip(self.qk, self.ov, self.mlp, strict=True))
        ]
        for row, widths in zip(rows, self.widths(), strict=True):
            if widths:
                row["bits"] = widths
        for row, latents in zip(rows, self.latents, strict=False):
            row |= latent_rows(latents)
        return rows
