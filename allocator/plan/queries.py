"""Queries that a stored profile answers without a new measurement: which components are sensitive, and where a cut hurts least.

No SQL, no torch. Fractions are of a component's own rank: the full rank, or in a profile around a plan the plan's.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_metric
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import (
    InterpolationError,
    OutOfReach,
    Removal,
    Sensitivity,
    WholeModel,
)
from allocator.plan.effort import LEAST_STDERR_NATS
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.layer import LayerRanks
from allocator.plan.planning import plan_from_profile

DEFAULT_METRIC = "block_params"
_COLUMNS = (
    *("layer", "component", "rank", "analytic", "loss_nats"),
    *("measured_nats", "stderr_nats", "windows"),
)


def removed_share(remove: float) -> Fraction:
    """The fraction as people wrote it: 0.1 is a tenth and not its nearest binary number.

    Raises:
        InvalidInput: it is not between 0 and 1.
    """
    if not 0 < remove < 1:
        raise InvalidInput.of("remove", remove, "a fraction above 0 and below 1")
    return Fraction(Decimal(repr(float(remove))))


def removals(
    profile: Profile, *, remove: float = 0.1, metric: str = DEFAULT_METRIC
) -> tuple[list[Removal], list[OutOfReach]]:
    """Every component of every layer, with at least the fraction ``remove`` of its rank removed alone.

    Returns:
        the removals, in the order of the profile's curves, and components whose smallest candidate rank is still too large.
        Components that never change rank are in neither.

    Raises:
        InvalidInput: ``remove`` or ``metric``.
    """
    share, priced = removed_share(remove), parse_metric(metric)
    costs = CostModel(profile.model.geometry)
    start = profile.start
    cuts: list[Removal] = []
    out_of_reach: list[OutOfReach] = []
    for curve in profile.curves:
        if curve.component in costs.geometry.fixed:
            continue
        before = start.of(curve.component)[curve.layer]
        fitting = [rank for rank in curve.ranks if rank <= (1 - share) * before]
        if not fitting:
            out_of_reach.append(OutOfReach(layer=curve.layer, component=curve.component, from_rank=before))
            continue
        loss = curve.loss_at(fitting[-1]) - curve.loss_at(before)
        before_cost, after_cost = (
            costs.cost_of(priced, curve.component, curve.layer, rank) for rank in (before, fitting[-1])
        )
        saved = before_cost - after_cost
        cuts.append(
            Removal(
                layer=curve.layer,
                component=curve.component,
                from_rank=before,
                rank=fitting[-1],
                loss_nats=loss,
                saved=saved,
                loss_per_unit=loss / saved if saved > 0 else None,
            )
        )
    return cuts, out_of_reach


def most_sensitive(cuts: Sequence[Removal]) -> list[Removal]:
    """Largest loss first."""
    return sorted(cuts, key=lambda cut: (-cut.loss_nats, cut.layer, COMPONENTS.index(cut.component)))


def hurts_least(cuts: Sequence[Removal]) -> list[Removal]:
    """Least loss first; components that save nothing in the metric are left out, for they are no answer."""
    useful = [cut for cut in cuts if cut.saved]
    return sorted(useful, key=lambda cut: (cut.loss_nats, cut.layer, COMPONENTS.index(cut.component)))


def whole_model(profile: Profile, *, remove: float = 0.1, metric: str = DEFAULT_METRIC) -> WholeModel | None:
    """The plan that removes this fraction of the whole model's metric at the least predicted loss; None where no ranks reach
    it.

    Raises:
        InvalidInput: ``remove`` or ``metric``.
    """
    share, priced = removed_share(remove), parse_metric(metric)
    before = CostModel(profile.model.geometry).total(priced, profile.start)
    name, at, options = priced.label.partition("@")
    budget = f"{name}={max(int((1 - share) * before), 2)}{at}{options}"
    try:
        plan = plan_from_profile(profile, [budget], bits=(), latents=False)
    except BudgetInfeasible:
        return None
    return WholeModel(
        budget=budget,
        unit=priced.unit,
        before=before,
        after=plan.budgets[0].used,
        loss_nats=plan.predicted.loss_nats,
        digest=plan.digest,
        ranks=tuple(map(LayerRanks.read, plan.chosen.layers())),
    )


def sensitivity(
    profile: Profile, *, remove: float = 0.1, metric: str = DEFAULT_METRIC, limit: int | None = None
) -> Sensitivity:
    """Both lists and the whole model's answer as one document; ``limit`` shortens the lists.

    Raises:
        InvalidInput: ``remove`` or ``metric``.
    """
    cuts, out_of_reach = removals(profile, remove=remove, metric=metric)
    priced = parse_metric(metric)
    return Sensitivity(
        profile_key=profile.key,
        around=None if profile.around is None else profile.around.plan,
        remove=remove,
        metric=priced.label,
        unit=priced.unit,
        most_sensitive=tuple(most_sensitive(cuts)[:limit]),
        hurts_least=tuple(hurts_least(cuts)[:limit]),
        out_of_reach=tuple(out_of_reach),
        whole_model=whole_model(profile, remove=remove, metric=metric),
    )


def interpolation_errors(profile: Profile) -> dict[Component, InterpolationError]:
    """How far curves of each kind of component were off at ranks that they were not told, in shares of the measured loss.

    Held-out points whose measured loss does not exceed what counts as noise (1e-5 nats/token) are only counted.
    """
    by_component: dict[Component, InterpolationError] = {}
    for component in COMPONENTS:
        held_out = [
            point for curve in profile.curves if curve.component == component for point in curve.held_out
        ]
        errors = [
            abs(point.predicted_nats - point.measured_nats) / point.measured_nats
            for point in held_out
            if point.measured_nats > LEAST_STDERR_NATS
        ]
        by_component[component] = InterpolationError(
            points=len(errors),
            median=statistics.median(errors) if errors else None,
            p95=_percentile(errors, Fraction(95, 100)),
            too_small=len(held_out) - len(errors),
        )
    return by_component


def _percentile(values: Sequence[float], share: Fraction) -> float | None:
    """The smallest value that at least this share of all values do not exceed."""
    if not values:
        return None
    return sorted(values)[-(-share.numerator * len(values) // share.denominator) - 1]


def select_curves(profile: Profile, *, layer: int | None = None, component: str | None = None) -> list[Curve]:
    """A profile's curves of one layer, one kind of component, or both; None is all."""
    return [
        curve
        for curve in profile.curves
        if layer in (None, curve.layer) and component in (None, curve.component)
    ]


def curves_csv(curves: Sequence[Curve]) -> str:
    """One line per rank; the measured columns are empty where the loss was interpolated."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for curve in curves:
        writer.writerows(_rows(curve))
    return lines.getvalue()


def _rows(curve: Curve) -> Iterator[tuple[Any, ...]]:
    measured = {point.rank: point for point in curve.measured}
    for rank, analytic, loss_nats in zip(curve.ranks, curve.analytic, curve.loss_nats, strict=True):
        point = measured.get(rank)
        values = ("", "", "") if point is None else (point.loss_nats, point.stderr_nats, point.windows)
        yield (curve.layer, curve.component, rank, analytic, loss_nats, *values)
