"""A layer's ranks as documents have them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from allocator.base.document import LOOSE, Document, Size
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import LATENTS, Latent


class LayerRanks(Document):
    """The ranks of one layer."""

    layer: Annotated[int, Field(ge=0, lt=10_000)]
    qk: Size
    ov: Size
    mlp: Size


class PlannedLayer(LayerRanks):
    """With the forms that a plan holds its components in."""

    bits: dict[Component, Literal[8, 4]] = Field(
        default_factory=dict,
        description="of those that have some; the others are in the checkpoint's own type",
    )
    ov_form: Literal["joint"] | None = Field(
        default=None, description="one latent of all value heads, of `ov` numbers for each"
    )
    qk_form: Literal["latent"] | None = Field(
        default=None, description="queries made of one latent, of `qk` numbers for each head"
    )

    @property
    def latents(self) -> list[Latent]:
        """The latents that it has."""
        return [form for form, component in LATENTS.items() if getattr(self, f"{component}_form") == form]


LayerRows = Annotated[tuple[LayerRanks, ...], LOOSE, Field(min_length=1, max_length=10_000)]
PlannedRows = Annotated[tuple[PlannedLayer, ...], LOOSE, Field(min_length=1, max_length=10_000)]
"""All layers, in order."""
