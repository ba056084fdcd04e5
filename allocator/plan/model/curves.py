"""Loss curves: what a component's rank costs in nats per token, at every rank, from a few measurements.

The end-to-end loss is measured at few ranks; the component's analytic loss (its own unit, closed form) is known at all of
them. log(measured) against log(analytic) is close to a line, so ranks in between are interpolated along it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.model.precision import LATENTS, Form, Latent, admissible_ranks

_TINY_NATS = 1e-12
"""Below this a mean KL is rounding, however it is computed from float32 logits; logarithms need a floor."""


@dataclass(frozen=True)
class Measurement:
    """Mean KL to the dense model when one component is cut to ``rank``, with its standard error, in nats/token."""

    rank: int
    loss_nats: float
    stderr_nats: float
    windows: int = 0
    """How many windows of text it is the mean of; 0: not noted."""


@dataclass(frozen=True)
class Prediction:
    """Loss at a rank from gradients, its standard error, and the loss on those windows alone that cuts are measured on."""

    rank: int
    loss_nats: float
    stderr_nats: float
    same_windows_nats: float


@dataclass(frozen=True)
class Quantized:
    """The same component with its weights in so many ``bits``, at the ``ranks`` that admit them, ascending.

    ``loss_nats`` aligns with ``ranks``; ``measured`` holds the first and the last of them and some between; ``repairs`` as in
    the curve.
    """

    bits: int
    ranks: tuple[int, ...]
    measured: tuple[Measurement, ...]
    loss_nats: tuple[float, ...]
    repairs: tuple[dict[str, float], ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "ranks": list(self.ranks),
            "loss_nats": list(self.loss_nats),
            "measured": [vars(point) for point in self.measured],
            "repairs": list(self.repairs),
        }

    @classmethod
    def from_document(cls, bits: int, document: dict[str, Any]) -> Quantized:
        return cls(
            bits,
            tuple(document["ranks"]),
            tuple(Measurement(**point) for point in document["measured"]),
            tuple(document["loss_nats"]),
            tuple(document["repairs"]),
        )


@dataclass(frozen=True)
class OfLatent:
    """A component of a latent at ``ranks``, ascending, with which ``loss_nats`` aligns; ``predicted``: what gradients say, at
    the same.
    """

    ranks: tuple[int, ...]
    loss_nats: tuple[float, ...]
    predicted: tuple[Prediction, ...]

    def document(self) -> dict[str, Any]:
        return {
            "ranks": list(self.ranks),
            "loss_nats": list(self.loss_nats),
            "predicted": [vars(point) for point in self.predicted],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> OfLatent:
        return cls(
            tuple(document["ranks"]),
            tuple(document["loss_nats"]),
            tuple(Prediction(**point) for point in document["predicted"]),
        )


@dataclass(frozen=True)
class Curve:
    """One component of one layer.

    ``ranks`` ascend to the full rank and align with ``analytic`` (the component's own unit) and ``loss_nats``;
    ``repairs`` lists the measured points that monotony moved: {rank, measured_nats, used_nats}. ``held_out``: what the curve
    would say of a measured rank had it not been measured there, {rank, measured_nats, predicted_nats}: the error of
    interpolating over twice the distance that the curve does. ``quantized``: the same in fewer bits, where that was measured,
    bits descending. ``predicted``: what gradients say, where the curve is made from them (``allocator.plan.model.predicted``).
    ``latents``: the same component of a latent, where that was predicted.
    """

    layer: int
    component: Component
    ranks: tuple[int, ...]
    analytic: tuple[float, ...]
    measured: tuple[Measurement, ...]
    loss_nats: tuple[float, ...]
    repairs: tuple[dict[str, float], ...]
    held_out: tuple[dict[str, float], ...] = ()
    quantized: tuple[Quantized, ...] = ()
    predicted: tuple[Prediction, ...] = ()
    latents: Mapping[Latent, OfLatent] = field(default_factory=dict)

    @cached_property
    def _losses(self) -> dict[int, float]:
        return dict(zip(self.ranks, self.loss_nats, strict=True))

    def loss_at(self, rank: int, form: Form = None) -> float:
        """In the checkpoint's own type, in so many bits, or of a latent. Raises ValueError where there is no such option."""
        if form is None:
            return self._losses[rank]
        if not isinstance(form, int) and (other := self.latents.get(form)) is not None:
            return other.loss_nats[other.ranks.index(rank)]
        for each in self.quantized:
            if each.bits == form:
                return each.loss_nats[each.ranks.index(rank)]
        how = f"in {form} bits" if isinstance(form, int) else form
        raise ValueError(f"layer {self.layer} {self.component} was not measured {how}")

    def options(
        self, bits: Sequence[int], latents: Collection[Latent] = tuple(LATENTS)
    ) -> list[tuple[int, Form]]:
        """(rank, form) of all that may be chosen of these bits, these latents and the own type."""
        found: list[tuple[int, Form]] = [(rank, None) for rank in self.ranks]
        found += [(rank, q.bits) for q in self.quantized if q.bits in bits for rank in q.ranks]
        found += [
            (rank, form) for form, each in self.latents.items() if form in latents for rank in each.ranks
        ]
        return found

    def document(self) -> dict[str, Any]:
        fewer = {"quantized": {str(each.bits): each.document() for each in self.quantized}}
        return {
            "layer": self.layer,
            "component": self.component,
            "full_rank": self.ranks[-1],
            "ranks": list(self.ranks),
            "analytic": list(self.analytic),
            "loss_nats": list(self.loss_nats),
            "measured": [vars(point) for point in self.measured],
            "repairs": list(self.repairs),
            "held_out": list(self.held_out),
            **(fewer if self.quantized else {}),
            **({"predicted": [vars(point) for point in self.predicted]} if self.predicted else {}),
            **{form: each.document() for form, each in self.latents.items()},
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Curve:
        return cls(
            layer=document["layer"],
            component=document["component"],
            ranks=tuple(document["ranks"]),
            analytic=tuple(document["analytic"]),
            measured=tuple(Measurement(**point) for point in document["measured"]),
            loss_nats=tuple(document["loss_nats"]),
            repairs=tuple(document["repairs"]),
            held_out=tuple(document.get("held_out", ())),
            predicted=tuple(Prediction(**point) for point in document.get("predicted", ())),
            latents={form: OfLatent.from_document(document[form]) for form in LATENTS if form in document},
            quantized=tuple(
                sorted(
                    (
                        Quantized.from_document(int(b), each)
                        for b, each in document.get("quantized", {}).items()
                    ),
                    key=lambda each: -each.bits,
                )
            ),
        )


def build_curve(
    layer: int,
    component: Component,
    ranks: Sequence[int],
    analytic: Sequence[float],
    measured: Sequence[Measurement],
) -> Curve:
    """Interpolate measurements to all ``ranks`` along the analytic losses and make the result monotone.

    Measured losses that rise with the rank are noise (or true non-monotony, which a larger rank can always imitate at the
    optimum); they are pooled by isotonic regression, weighted by inverse variance, and recorded. The full rank costs 0.

    Raises:
        ValueError: the smallest candidate below the full rank was not measured.
    """
    points = sorted(measured, key=lambda point: point.rank)
    if len(ranks) > 1 and (not points or points[0].rank != ranks[0]):
        raise ValueError(f"layer {layer} {component}: rank {ranks[0]} must be among the measured ranks")
    known, repairs = _pooled(points)
    heights = np.asarray(analytic, dtype=float)
    losses = interpolate(list(ranks), heights, known)
    held_out = []
    for point in points[1:]:
        without = {rank: used for rank, used in known.items() if rank != point.rank}
        predicted = interpolate(list(ranks), heights, without)[ranks.index(point.rank)]
        held_out.append({"rank": point.rank, "measured_nats": point.loss_nats, "predicted_nats": predicted})
    return Curve(
        layer,
        component,
        tuple(ranks),
        tuple(map(float, analytic)),
        tuple(points),
        losses,
        repairs,
        tuple(held_out),
    )


def build_quantized(
    curve: Curve, bits: int, ranks: Sequence[int], measured: Sequence[Measurement]
) -> Quantized:
    """The curve of a component in fewer bits: its own curve and what rounding adds, known where it was measured.

    What it adds is interpolated linearly in the rank; the sum is made monotone as the curve itself is.

    Args:
        ranks: those that admit these bits, ascending; the first and the last of them are among the measured.

    Raises:
        ValueError: an end was not measured.
    """
    points = sorted(measured, key=lambda point: point.rank)
    if not points or (points[0].rank, points[-1].rank) != (ranks[0], ranks[-1]):
        raise ValueError(
            f"layer {curve.layer} {curve.component}: ranks {ranks[0]} and {ranks[-1]} must be measured in {bits} bits"
        )
    known, repairs = _pooled(points)
    own = np.array([curve.loss_at(rank) for rank in ranks])
    added = np.interp(ranks, list(known), [used - curve.loss_at(rank) for rank, used in known.items()])
    losses = np.maximum(own + added, 0.0)
    ceiling = np.inf
    rounding = 8 * float(np.finfo(float).eps) * float(own[0])
    for spot, rank in enumerate(ranks):
        # The sum of what falls and what rises may end a bit above the measured loss before it, which it must not lift.
        if ceiling < losses[spot] <= ceiling + rounding:
            losses[spot] = ceiling
        if rank in known:
            losses[spot] = ceiling = known[rank]
    monotone = np.maximum.accumulate(losses[::-1])[::-1]
    return Quantized(bits, tuple(ranks), tuple(points), tuple(float(each) for each in monotone), repairs)


def with_quantized(curve: Curve, geometry: Geometry, measured: Mapping[int, Sequence[Measurement]]) -> Curve:
    """The curve with those in fewer bits; of bits without a measured point there is none.

    Args:
        measured: bits -> the measured points.
    """
    found = [
        build_quantized(curve, bits, admissible_ranks(geometry, curve.component, bits), points)
        for bits, points in sorted(measured.items(), reverse=True)
        if points
    ]
    return replace(curve, quantized=tuple(found))


def _pooled(points: Sequence[Measurement]) -> tuple[dict[int, float], tuple[dict[str, float], ...]]:
    """Rank -> loss, never rising with the rank, and which of the measured losses that moved."""
    values = np.array([max(point.loss_nats, 0.0) for point in points])
    weights = np.array([1 / max(point.stderr_nats, 1e-9) ** 2 for point in points])
    pooled = values
    if (np.diff(values) > 0).any():  # equal values are pooled too, and their mean may be off by its last bit
        pooled = isotonic_regression(values, weights=weights, increasing=False).x
    repairs = tuple(
        {"rank": point.rank, "measured_nats": point.loss_nats, "used_nats": float(used)}
        for point, used in zip(points, pooled, strict=True)
        if used != point.loss_nats
    )
    return {point.rank: float(used) for point, used in zip(points, pooled, strict=True)}, repairs


def interpolate(ranks: list[int], analytic: np.ndarray, known: dict[int, float]) -> tuple[float, ...]:
    """Piecewise linear in (log analytic, log loss); proportional to the analytic loss above the last measured rank.

    A component's error energy and the KL it causes are proportional when both are small (KL is quadratic in the error),
    which fixes the slope of the last piece; within flat analytic pieces the rank itself is the abscissa.
    """
    if len(ranks) == 1:
        return (0.0,)
    floor = max(float(analytic[0]), 1e-300) * 1e-15
    logs = np.log(np.maximum(analytic, floor))
    spots = [ranks.index(rank) for rank in sorted(known)]
    heights = [np.log(max(known[ranks[spot]], _TINY_NATS)) for spot in spots]
    losses = np.zeros(len(ranks))
    for index in range(len(ranks) - 1):
        right = next((n for n, spot in enumerate(spots) if spot >= index), None)
        if right is None:
            losses[index] = np.exp(heights[-1] + min(logs[index] - logs[spots[-1]], 0.0))
        elif spots[right] == index:
            losses[index] = known[ranks[index]]
        else:
            low, high = spots[right - 1], spots[right]
            span = logs[high] - logs[low]
            share = (logs[index] - logs[low]) / span if span < -1e-9 else (index - low) / (high - low)
            share = min(max(share, 0.0), 1.0)
            losses[index] = np.exp(heights[right - 1] + share * (heights[right] - heights[right - 1]))
    # Analytic orders need not be monotone (dropped neurons can cancel); the interpolated losses must be.
    monotone = np.maximum.accumulate(losses[::-1])[::-1]
    return tuple(float(value) for value in monotone)
