"""Loss curves: what a component's rank costs in nats per token, at every rank, from a few measurements.

The end-to-end loss is measured at few ranks; the component's analytic loss (its own unit, closed form) is known at all of
them. log(measured) against log(analytic) is close to a line, so ranks in between are interpolated along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from allocator.plan.documents.curve import Curve, HeldOut, Point, Quantized, Repair
from allocator.plan.model.geometry import Component, Geometry
from allocator.plan.model.precision import admissible_ranks

_TINY_NATS = 1e-12
"""Below this a mean KL is rounding, however it is computed from float32 logits; logarithms need a floor."""


def build_curve(
    layer: int,
    component: Component,
    ranks: Sequence[int],
    analytic: Sequence[float],
    measured: Sequence[Point],
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
    pooled, repairs = _pooled(points)
    heights = np.asarray(analytic, dtype=float)
    losses = interpolate(list(ranks), heights, pooled)
    held_out = []
    for point in points[1:]:
        without = {rank: used for rank, used in pooled.items() if rank != point.rank}
        predicted = interpolate(list(ranks), heights, without)[ranks.index(point.rank)]
        held_out.append(HeldOut(rank=point.rank, measured_nats=point.loss_nats, predicted_nats=predicted))
    return Curve(
        layer=layer,
        component=component,
        full_rank=ranks[-1],
        ranks=tuple(ranks),
        analytic=tuple(map(float, analytic)),
        loss_nats=losses,
        measured=tuple(points),
        repairs=repairs,
        held_out=tuple(held_out),
    )


def build_quantized(curve: Curve, bits: int, ranks: Sequence[int], measured: Sequence[Point]) -> Quantized:
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
    pooled, repairs = _pooled(points)
    unrounded = np.array([curve.loss_at(rank) for rank in ranks])
    added = np.interp(ranks, list(pooled), [used - curve.loss_at(rank) for rank, used in pooled.items()])
    losses = np.maximum(unrounded + added, 0.0)
    ceiling = np.inf
    rounding = 8 * float(np.finfo(float).eps) * float(unrounded[0])
    for spot, rank in enumerate(ranks):
        # The sum of what falls and what rises may end a bit above the measured loss before it, which it must not lift.
        if ceiling < losses[spot] <= ceiling + rounding:
            losses[spot] = ceiling
        if rank in pooled:
            losses[spot] = ceiling = pooled[rank]
    monotone = np.maximum.accumulate(losses[::-1])[::-1]
    losses_of = tuple(float(loss) for loss in monotone)
    return Quantized(ranks=tuple(ranks), loss_nats=losses_of, measured=tuple(points), repairs=repairs)


def with_quantized(curve: Curve, geometry: Geometry, measured: Mapping[int, Sequence[Point]]) -> Curve:
    """The curve with those in fewer bits; of bits without a measured point there is none.

    Args:
        measured: bits -> the measured points.
    """
    quantized = {
        str(bits): build_quantized(curve, bits, admissible_ranks(geometry, curve.component, bits), points)
        for bits, points in sorted(measured.items(), reverse=True)
        if points
    }
    return curve.replaced(quantized=quantized) if quantized else curve


def _pooled(points: Sequence[Point]) -> tuple[dict[int, float], tuple[Repair, ...]]:
    """Rank -> loss, never rising with the rank, and which of the measured losses that moved."""
    values = np.array([max(point.loss_nats, 0.0) for point in points])
    weights = np.array([1 / max(point.stderr_nats, 1e-9) ** 2 for point in points])
    pooled = values
    if (np.diff(values) > 0).any():  # equal values are pooled too, and their mean may be off by its last bit
        pooled = isotonic_regression(values, weights=weights, increasing=False).x
    repairs = tuple(
        Repair(rank=point.rank, measured_nats=point.loss_nats, used_nats=float(used))
        for point, used in zip(points, pooled, strict=True)
        if used != point.loss_nats
    )
    return {point.rank: float(used) for point, used in zip(points, pooled, strict=True)}, repairs


def interpolate(ranks: list[int], analytic: np.ndarray, points: dict[int, float]) -> tuple[float, ...]:
    """Piecewise linear in (log analytic, log loss); proportional to the analytic loss above the last measured rank.

    A component's error energy and the KL it causes are proportional when both are small (KL is quadratic in the error),
    which fixes the slope of the last piece; within flat analytic pieces the rank itself is the abscissa.
    """
    if len(ranks) == 1:
        return (0.0,)
    floor = max(float(analytic[0]), 1e-300) * 1e-15
    logs = np.log(np.maximum(analytic, floor))
    spots = [ranks.index(rank) for rank in sorted(points)]
    heights = [np.log(max(points[ranks[spot]], _TINY_NATS)) for spot in spots]
    losses = np.zeros(len(ranks))
    for index in range(len(ranks) - 1):
        right = next((n for n, spot in enumerate(spots) if spot >= index), None)
        if right is None:
            losses[index] = np.exp(heights[-1] + min(logs[index] - logs[spots[-1]], 0.0))
        elif spots[right] == index:
            losses[index] = points[ranks[index]]
        else:
            low, high = spots[right - 1], spots[right]
            span = logs[high] - logs[low]
            share = (logs[index] - logs[low]) / span if span < -1e-9 else (index - low) / (high - low)
            share = min(max(share, 0.0), 1.0)
            losses[index] = np.exp(heights[right - 1] + share * (heights[right] - heights[right - 1]))
    # Analytic orders need not be monotone (dropped neurons can cancel); the interpolated losses must be.
    monotone = np.maximum.accumulate(losses[::-1])[::-1]
    return tuple(float(value) for value in monotone)
