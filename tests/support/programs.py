"""Small programs made by Hypothesis, and all of their plans."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible
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
