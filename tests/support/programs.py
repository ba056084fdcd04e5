"""Small programs made by Hypothesis, and all of their plans; all plans of profiles with few ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.optimize import linprog

from allocator.base.errors import BudgetInfeasible
from allocator.plan.ask.budgets import Budget
from allocator.plan.documents.curve import Curve
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import Form
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import Question
from allocator.plan.program.solve import Group, Row, solve


def losses(draw: st.DrawFn, options: int, scale: float) -> tuple[float, ...]:
    """Falling to 0, flat in places."""
    drops = [draw(st.floats(0, 1)) * scale for _ in range(options - 1)]
    return tuple(math.fsum(drops[o:]) for o in range(options))


@st.composite
def kinds(draw: st.DrawFn, *, tight: bool = True, stairs: bool = False) -> tuple[list[Group], list[Row]]:
    """2 to 7 groups of 1 to 5 options whose costs are a rank times the slopes of one of three kinds; 1 to 3 budgets.

    With ``tight`` half of the limits are what some choice uses exactly, and some are below all that can be reached. With
    ``stairs`` ranks are rounded up to a multiple of the kind's own before a budget counts them.
    """
    budgets = draw(st.integers(1, 3))
    scale = 10.0 ** draw(st.integers(-7, 1))
    unit = 10 ** draw(st.integers(0, 9))
    widest = 6 if stairs else 1
    slopes = [
        [(draw(st.integers(0, 40)) * unit, draw(st.integers(1, widest))) for _ in range(budgets)]
        for _ in range(draw(st.integers(1, 3)))
    ]
    groups, picked = [], []
    for g in range(draw(st.integers(2, 7))):
        count = draw(st.integers(1, 5))
        ranks = list(itertools.accumulate(draw(st.integers(1, 6)) for _ in range(count)))
        slope = draw(st.sampled_from(slopes))
        costs = tuple(tuple(s * (-(-rank // width) * width) for rank in ranks) for s, width in slope)
        groups.append(Group(f"g{g}", losses(draw, count, scale), costs))
        picked.append(draw(st.integers(0, count - 1)))
    rows = []
    exact = tight and draw(st.booleans())
    for b in range(budgets):
        constant = draw(st.integers(0, 50)) * unit
        least = constant + sum(group.costs[b][0] for group in groups)
        most = constant + sum(group.costs[b][-1] for group in groups)
        if exact:
            limit = constant + sum(group.costs[b][pick] for group, pick in zip(groups, picked, strict=True))
        else:
            limit = least + int(draw(st.floats(-0.05 if tight else 0, 1)) * (most - least))
        rows.append(Row(f"b{b}", max(limit, 1), constant, "units"))
    return groups, rows


def all_plans(groups: list[Group], rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, uses (budgets x plans, constants included) and choices (plans x groups) of every plan."""
    choices = np.array(list(itertools.product(*(range(len(group.losses)) for group in groups))))
    loss = sum(np.array(group.losses)[choices[:, g]] for g, group in enumerate(groups))
    used = np.array(
        [
            row.constant + sum(np.array(group.costs[b])[choices[:, g]] for g, group in enumerate(groups))
            for b, row in enumerate(rows)
        ]
    )
    return np.asarray(loss), used, choices


def optimum(groups: list[Group], rows: list[Row]) -> tuple[float, list[int] | None]:
    """The least loss and a choice that reaches it; infinity and None where nothing fits."""
    loss, used, choices = all_plans(groups, rows)
    limits = np.array([[row.limit] for row in rows])
    fitting = np.where((used <= limits).all(axis=0), loss, np.inf)
    best = int(fitting.argmin())
    return float(fitting[best]), (choices[best].tolist() if np.isfinite(fitting[best]) else None)


def relaxed(groups: Sequence[Group], rows: Sequence[Row]) -> float:
    """The least loss of the linear relaxation, by SciPy; costs and losses scaled to about 1."""
    losses = np.concatenate([group.losses for group in groups])
    owner = np.repeat(np.arange(len(groups)), [len(group.losses) for group in groups])
    scale = max(float(losses.max()), 1e-300)
    rooms = [max(row.limit - row.constant, 1) for row in rows]
    costs = [
        np.concatenate([np.array(group.costs[b], dtype=float) for group in groups]) / room
        for b, room in enumerate(rooms)
    ]
    found = linprog(
        losses / scale,
        A_ub=np.array(costs),
        b_ub=[(row.limit - row.constant) / room for row, room in zip(rows, rooms, strict=True)],
        A_eq=np.array([owner == g for g in range(len(groups))], dtype=float),
        b_eq=np.ones(len(groups)),
    )
    assert found.status == 0
    return float(found.fun) * scale


def lagrangian(groups: Sequence[Group], rows: Sequence[Row], prices: Sequence[float]) -> float:
    """The least of losses and priced uses, less what the rooms are worth: no plan loses less, whatever the prices."""
    worth = sum(price * (row.limit - row.constant) for price, row in zip(prices, rows, strict=True))
    return -worth + math.fsum(
        min(
            loss + sum(price * cost[o] for price, cost in zip(prices, group.costs, strict=True))
            for o, loss in enumerate(group.losses)
        )
        for group in groups
    )


def uses(groups: Sequence[Group], rows: Sequence[Row], choice: Sequence[int]) -> tuple[int, ...]:
    """What a choice takes of each budget, its constant included."""
    totals = [row.constant for row in rows]
    for group, option in zip(groups, choice, strict=True):
        for b in range(len(rows)):
            totals[b] += group.costs[b][option]
    return tuple(totals)


def all_ranks(curves: Sequence[Curve]) -> Iterator[tuple[Ranks, float]]:
    """Every choice among the ranks of curves, layer by layer, with the sum of the losses that the curves have there."""
    layers = len(curves) // len(COMPONENTS)
    options = [list(zip(curve.ranks, curve.loss_nats, strict=True)) for curve in curves]
    for choice in itertools.product(*options):
        at = {(c.layer, c.component): rank for c, (rank, _) in zip(curves, choice, strict=True)}
        ranks = Ranks(*(tuple(at[layer, c] for layer in range(layers)) for c in COMPONENTS))
        yield ranks, math.fsum(loss for _, loss in choice)


def least_loss(curves: Sequence[Curve], fits: Callable[[Ranks], bool]) -> float:
    """The least loss of all ranks that fit; infinity where none do."""
    return min((loss for ranks, loss in all_ranks(curves) if fits(ranks)), default=math.inf)


def within(costs: CostModel, budgets: Sequence[Budget]) -> Callable[[Ranks], bool]:
    """Whether a whole model costs no more than budgets allow."""
    limits = [(budget.metric, budget.limit(costs)) for budget in budgets]
    return lambda ranks: all(costs.total(metric, ranks) <= limit for metric, limit in limits)


Options = Sequence[Sequence[tuple[int, Form]]]


def least_loss_of_options(
    costs: CostModel,
    curves: Sequence[Curve],
    options: Options,
    budgets: Sequence[Budget],
    fits: Callable[[np.ndarray], np.ndarray] = lambda fitting: fitting,
) -> float:
    """The least loss over the product of all ``options`` of ``curves``, by what they cost themselves, not by what a program
    charges; infinity where nothing fits.

    Args:
        fits: narrows what is within the budgets (a dimension for each curve).
    """

    def total(value: Callable[[Curve, tuple[int, Form]], float]) -> np.ndarray:
        each = [
            np.array([value(c, option) for option in mine]) for c, mine in zip(curves, options, strict=True)
        ]
        return np.asarray(sum(np.ix_(*each)))

    losses = total(lambda c, option: c.loss_at(*option))
    fitting = np.ones(losses.shape, dtype=bool)
    for budget in budgets:
        metric = budget.metric
        used = total(lambda c, o, metric=metric: costs.cost_of(metric, c.component, c.layer, *o))  # type: ignore[misc]
        fitting &= used <= budget.limit(costs) - costs.constant(metric)
    return float(losses[fits(fitting)].min(initial=math.inf))


def check_solved(ask: Callable[[], Question], best: float) -> None:
    """The program's plan loses ``best``, infinity where there is none, and keeps its budgets by what it costs itself."""
    try:
        asked = ask()
        solution = solve(asked.groups, asked.rows)
    except BudgetInfeasible:
        assert best == math.inf
        return
    assert solution.status == "optimal"
    assert solution.loss_nats == pytest.approx(best, rel=1e-4, abs=1e-9)
    ranks = asked.ranks(solution.choice)
    assert asked.choice(ranks) == solution.choice
    for budget, used in zip(asked.budgets, solution.used, strict=True):
        assert asked.costs.total(budget.metric, ranks) <= used <= budget.limit(asked.costs)
