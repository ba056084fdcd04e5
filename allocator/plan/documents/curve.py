"""Loss curves as they stand in a profile: what a component's rank costs in nats per token, at every rank.

``allocator.plan.curves.measured`` and ``allocator.plan.curves.predicted`` make them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated

from pydantic import Field

from allocator.base.document import LOOSE, Change, Document, Energy, Nats, Size
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import LATENTS, Form, Latent

_Layer = Annotated[int, Field(ge=0, lt=10_000)]
_Width = Annotated[str, Field(pattern=r"^[84]$")]
_MOST = Field(min_length=1, max_length=65_536)
_Ranks = Annotated[tuple[Size, ...], LOOSE, _MOST]
_Losses = Annotated[tuple[float, ...], LOOSE]


class Point(Document):
    """Mean KL to the dense model when one component is cut to ``rank``, with its standard error, in nats/token."""

    rank: Size
    loss_nats: Change
    stderr_nats: Nats
    windows: Annotated[int, Field(ge=0, le=10**9)] = 0
    """How many windows of text it is the mean of; 0: not noted."""


class Prediction(Document):
    """Loss at a rank from gradients, its standard error, and the loss on those windows alone that cuts are measured on."""

    rank: Size
    loss_nats: Nats
    stderr_nats: Nats
    same_windows_nats: Nats


class Repair(Document):
    """A measured point that was moved to make a curve fall."""

    rank: Size
    measured_nats: float
    used_nats: float


class HeldOut(Document):
    """What a curve would say of a measured rank had it not been measured there."""

    rank: Size
    measured_nats: float
    predicted_nats: float


_Points = Annotated[tuple[Point, ...], LOOSE, Field(max_length=65_536)]
_Predictions = Annotated[tuple[Prediction, ...], LOOSE, Field(max_length=65_536)]
_Repairs = Annotated[tuple[Repair, ...], LOOSE]


class Quantized(Document):
    """A component with its weights in fewer bits, at the ``ranks`` that admit them, ascending.

    ``loss_nats`` aligns with ``ranks``; ``measured`` holds the first and the last of them and some between.
    """

    ranks: _Ranks
    loss_nats: _Losses
    measured: _Points
    repairs: _Repairs = ()


class OfLatent(Document):
    """A component of a latent at ``ranks``, ascending, with which ``loss_nats`` aligns; ``predicted``: what gradients say, at
    the same; ``measured``: of components that have no other ranks.
    """

    ranks: _Ranks
    loss_nats: _Losses
    predicted: _Predictions
    measured: _Points = ()


class Curve(Document):
    """One component of one layer."""

    layer: _Layer = Field(description="counted from 0")
    component: Component = Field(description="`qk`, `ov` or `mlp`")
    full_rank: Size = Field(description="that of the dense model")
    ranks: _Ranks = Field(description="every rank a plan may use, ascending to the full one")
    analytic: Annotated[tuple[Energy, ...], LOOSE, _MOST] = Field(
        description="the closed form's error at each rank, in the component's own unit: the ruler along which losses are"
        " interpolated"
    )
    loss_nats: _Losses = Field(
        description="the loss at each rank that plans go by: measured, interpolated between, falling"
    )
    measured: _Points = Field(
        description="[{`rank`, `loss_nats`, `stderr_nats`, `windows`}]: mean KL to the dense model with this component alone"
        " cut; around a plan the change from the plan with the component whole, which may be a gain. `windows`: how many of"
        " them it is the mean of"
    )
    repairs: _Repairs = Field(
        description="[{`rank`, `measured_nats`, `used_nats`}]: measured points that were moved to make the curve fall"
    )
    held_out: Annotated[tuple[HeldOut, ...], LOOSE] = Field(
        default=(),
        description="[{`rank`, `measured_nats`, `predicted_nats`}]: what the curve would say of a measured rank without its"
        " measurement: the error of interpolating over twice the distance that the curve does",
    )
    quantized: dict[_Width, Quantized] = Field(
        default_factory=dict,
        description='only with `bits`: "8" or "4" -> {`ranks` (those that admit the bits), `measured`, `loss_nats` (per rank),'
        " `repairs`}, of the component cut and rounded, of the full rank too; between measured ranks the curve's own loss plus"
        " what rounding adds, linear in the rank. A component that cannot have the bits lacks them",
    )
    predicted: _Predictions = Field(
        default=(),
        description="of effort `gradient` alone: [{`rank`, `loss_nats`, `stderr_nats`, `same_windows_nats` (on the windows that"
        " cuts are measured on)}], before scaling",
    )
    latent: OfLatent | None = Field(
        default=None,
        description="only of QK, with solver `a3+latent`: `ranks`, `predicted` (as above) and `loss_nats` of [queries of one"
        " latent](../decisions/0040-latent-queries.md); a rank counts numbers for each query head. `measured`, as above, where"
        " heads are left whole",
    )
    joint: OfLatent | None = Field(
        default=None,
        description="only of OV, with solvers `a3+joint` and `a3+latent`, where a model has several value heads: the same of"
        " [values in one latent of all heads](../decisions/0039-joint-head-ov.md); a rank counts numbers for each head, as OV's"
        " own ranks do",
    )

    @cached_property
    def _losses(self) -> dict[int, float]:
        return dict(zip(self.ranks, self.loss_nats, strict=True))

    @property
    def latents(self) -> dict[Latent, OfLatent]:
        """Latent -> its samples, of those that were predicted."""
        return {form: latent for form in LATENTS if (latent := getattr(self, form)) is not None}

    @property
    def cut_form(self) -> Latent | None:
        """The latent by which the component is cut where its heads stay whole and there is one; else None, as most are."""
        return next(iter(self.latents), None) if len(self.ranks) == 1 else None

    @property
    def cut(self) -> Curve | OfLatent:
        """Its ``ranks``, ``loss_nats`` and ``measured`` points in that form."""
        return self if self.cut_form is None else self.latents[self.cut_form]

    def loss_at(self, rank: int, form: Form = None) -> float:
        """The loss at a rank, in the checkpoint's own type, in so many bits, or of a latent.

        Raises:
            ValueError: there is no such option.
        """
        if form is None:
            return self._losses[rank]
        other: Quantized | OfLatent | None
        other = self.quantized.get(str(form)) if isinstance(form, int) else getattr(self, form)
        if other is None:
            how = f"in {form} bits" if isinstance(form, int) else form
            raise ValueError(f"layer {self.layer} {self.component} was not measured {how}")
        return other.loss_nats[other.ranks.index(rank)]

    def choosable(self, latents: Collection[Latent] = tuple(LATENTS)) -> tuple[int, ...]:
        """All ranks of `options`, ascending: those of heads, and where these are whole those of latents."""
        if len(self.ranks) > 1:  # a latent's ranks are among them
            return self.ranks
        return tuple(sorted({rank for rank, _ in self.options((), latents)}))

    def options(
        self, bits: Sequence[int], latents: Collection[Latent] = tuple(LATENTS)
    ) -> list[tuple[int, Form]]:
        """(rank, form) of all that may be chosen of these bits, these latents and the own type."""
        pairs: list[tuple[int, Form]] = [(rank, None) for rank in self.ranks]
        for width in sorted(bits, reverse=True):
            if (quantized := self.quantized.get(str(width))) is not None:
                pairs += [(rank, width) for rank in quantized.ranks]
        for form, latent in self.latents.items():
            if form in latents:
                pairs += [(rank, form) for rank in latent.ranks]
        return pairs


class QuantizedSamples(Document):
    """What a curve in fewer bits is built from; its ranks are the geometry's."""

    measured: Annotated[tuple[Point, ...], LOOSE, _MOST]


class LatentSamples(Document):
    """What gradients say of a component of a latent; its ranks are the geometry's."""

    predicted: Annotated[tuple[Prediction, ...], LOOSE, _MOST]
    measured: _Points = ()


class Samples(Document):
    """What a curve is built from: what was measured, and what gradients predict."""

    layer: _Layer
    component: Component
    ranks: _Ranks
    analytic: Annotated[tuple[Energy, ...], LOOSE, _MOST]
    measured: _Points
    quantized: dict[_Width, QuantizedSamples] = Field(default_factory=dict)
    predicted: _Predictions = ()
    latent: LatentSamples | None = None
    joint: LatentSamples | None = None
