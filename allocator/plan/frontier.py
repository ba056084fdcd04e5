"""The frontier: the least predicted loss at every limit of one metric, or of two, other budgets and constraints fixed.

Every point is solved and proven like a plan. The program is made once: cutting planes found at one limit hold at all, and the
plan of a tighter limit is one for a looser one, so the losses never rise with the limit.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import Budget, budget_text, parse_budgets, parse_metric
from allocator.plan.documents.frontier import FRONTIER_SCHEMA, Frontier, FrontierPoint
from allocator.plan.documents.plan import NamedModel, Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.latency import LatencyTable
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.bound import Choice
from allocator.plan.program.problem import Question, question
from allocator.plan.program.solve import Program, Row, Solution

POINTS = 200
SIDE = 20


def frontier_of(
    profile: Profile,
    metrics: Sequence[str],
    *,
    budgets: Sequence[str] = (),
    constraints: Mapping[str, Sequence[str]] | None = None,
    points: int | None = None,
    between: Sequence[tuple[int, int]] | None = None,
    latency: LatencyTable | None = None,
    bits: Sequence[int] | None = None,
    time_limit_s: float = 600.0,
) -> Frontier:
    """The frontier of one metric, a curve, or of two, a surface. Ranks are made on demand, see ``plan_at``.

    Args:
        metrics: one or two, as in budgets without values.
        budgets: limits on other metrics.
        points: per metric; default 200 for a curve, 20 for a surface.
        latency: what latency metrics and budgets are counted in.
        bits: which of those that the profile has measured may be used; default: all.
        between: (lowest, highest) limit per metric; default: from the least that ranks reach to the dense model.
        time_limit_s: for all points together; what is left open by then says so in its status.

    Raises:
        BudgetSyntax: a metric or budget cannot be read.
        BudgetInfeasible: the budgets, or the lowest limit given, are below what ranks reach.
        InvalidInput: not one or two different metrics without budgets of their own, or too few or too many points.
    """
    axes = [parse_metric(metric) for metric in metrics]
    others = parse_budgets(budgets) if budgets else []
    count = points if points is not None else (POINTS if len(axes) == 1 else SIDE)
    _check(axes, others, count)
    limits = [*(Budget(axis.label, axis, absolute=1) for axis in axes), *others]
    problem = question(profile, limits, constraints, latency, bits)
    grids = [
        _limits(problem, b, count, between[b] if between is not None else None) for b in range(len(axes))
    ]
    ends = time.monotonic() + time_limit_s
    return Frontier.model_validate(
        {
            "schema": FRONTIER_SCHEMA,
            "model": {name: getattr(profile.model, name) for name in NamedModel.model_fields},
            "profile_key": profile.key,
            "metrics": [{"metric": axis.label, "unit": axis.unit} for axis in axes],
            "budgets": [{**budget.document(problem.costs), "text": budget.text} for budget in others],
            "constraints": problem.limits.document,
            **({"bits": problem.bits} if profile.bits else {}),
            "dense": [problem.costs.dense(axis) for axis in axes],
            "points": _solved(problem, grids, ends),
        }
    )


def plan_at(
    profile: Profile,
    frontier: Frontier,
    index: int,
    *,
    latency: LatencyTable | None = None,
    created_by: str = "default",
) -> Plan:
    """The plan of one point of a frontier, solved afresh at its limits.

    Raises:
        InvalidInput: there is no such point.
    """
    if not 0 <= index < len(frontier.points):
        allowed = f"a point from 0 to {len(frontier.points) - 1}"
        raise InvalidInput.of("point", index, allowed)
    limits = zip(frontier.metrics, frontier.points[index].limits, strict=True)
    return plan_from_profile(
        profile,
        [
            *(budget_text(axis.metric, limit) for axis, limit in limits),
            *(budget.text for budget in frontier.budgets),
        ],
        constraints=frontier.constraints,
        latency=latency,
        bits=frontier.bits,
        created_by=created_by,
    )


def frontier_csv(frontier: Frontier) -> str:
    """The points as CSV with a header."""
    names = [axis.metric for axis in frontier.metrics]
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(
        [
            *(f"limit {name}" for name in names),
            *(f"used {name}" for name in names),
            "loss_nats",
            "bound_nats",
            "gap",
            "status",
        ]
    )
    for point in frontier.points:
        values = (point.loss_nats, point.bound_nats, point.gap, point.status)
        writer.writerow([*point.limits, *point.used, *values])
    return lines.getvalue()


def _check(axes: Sequence[Metric], others: Sequence[Budget], count: int) -> None:
    labels = [axis.label for axis in axes]
    taken = {budget.metric.label for budget in others}
    if not 1 <= len(axes) <= 2 or len(set(labels)) != len(labels) or taken & set(labels):
        allowed = "one metric or two different ones, without a budget of their own"
        said = f"{', '.join(labels) or 'nothing'} is not"
        raise InvalidInput.of("metric", ", ".join(labels), allowed, said)
    most = POINTS if len(axes) == 1 else SIDE
    if not 2 <= count <= most:
        allowed = f"a number from 2 to {most}" + (" for each of two metrics" if len(axes) == 2 else "")
        raise InvalidInput.of("points", count, allowed)


def _limits(problem: Question, b: int, count: int, between: tuple[int, int] | None) -> list[int]:
    """Evenly spaced limits in exact integers, each once."""
    constant = problem.rows[b].constant
    low, high = between or (
        max(constant + sum(group.costs[b][0] for group in problem.groups), 2),
        max(constant + sum(max(group.costs[b]) for group in problem.groups), 2),
    )
    return list(dict.fromkeys(low + (high - low) * i // (count - 1) for i in range(count)))


def _solved(problem: Question, grids: Sequence[Sequence[int]], ends: float) -> list[FrontierPoint]:
    """A point for each combination of limits, solved until ``ends`` of the monotonic clock."""
    program = Program(problem.groups, len(problem.rows))
    spots = list(product(*(range(len(grid)) for grid in grids)))
    choices: dict[tuple[int, ...], Choice] = {}
    points = []
    for done, spot in enumerate(spots):
        limits = [grid[i] for grid, i in zip(grids, spot, strict=True)]
        rows: list[Row] = [
            *(replace(row, limit=limit) for row, limit in zip(problem.rows, limits, strict=False)),
            *problem.rows[len(limits) :],
        ]
        tighter = [
            choices[before]
            for axis in range(len(spot))
            if spot[axis] > 0
            for before in [(*spot[:axis], spot[axis] - 1, *spot[axis + 1 :])]
        ]
        best = min(tighter, key=program.instance.loss, default=None)
        left = max((ends - time.monotonic()) / (len(spots) - done), 0.05)
        solution = program.solve(rows, time_limit_s=left, known=best)
        choices[spot] = solution.choice
        points.append(_point(problem, limits, solution))
    return points


def _point(problem: Question, limits: list[int], solution: Solution) -> FrontierPoint:
    ranks = problem.ranks(solution.choice)
    loss = problem.predicted(ranks)
    return FrontierPoint(
        limits=tuple(limits),
        used=tuple(problem.costs.total(b.metric, ranks) for b in problem.budgets[: len(limits)]),
        loss_nats=loss,
        bound_nats=min(max(solution.bound_nats + problem.offset, 0.0), loss),
        gap=solution.gap,
        status=solution.status,
    )
