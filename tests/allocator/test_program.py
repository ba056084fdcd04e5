"""The integer program against brute force over all choices, and its bound and certificate against the true optimum."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible
from allocator.plan.program.solve import Group, Row, solve
from tests.support.programs import lagrangian, optimum, relaxed, uses


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Group], list[Row]]:
    """2 to 6 groups of 1 to 5 options and 1 to 3 budgets; losses and costs over many orders of magnitude."""
    budgets = draw(st.integers(1, 3))
    loss_scale = 10.0 ** draw(st.integers(-7, 1))
    cost_scales = [10 ** draw(st.integers(0, 10)) for _ in range(budgets)]
    groups = []
    for g in range(draw(st.integers(2, 6))):
        options = draw(st.integers(1, 5))
        drops = [draw(st.floats(0, 1)) * loss_scale for _ in range(options - 1)]
        losses = [math.fsum(drops[o:]) for o in range(options)]
        costs = []
        for scale in cost_scales:
            steps = [draw(st.integers(0, 1000)) * scale for _ in range(options)]
            costs.append(tuple(itertools.accumulate(steps)))
        groups.append(Group(f"g{g}", tuple(losses), tuple(costs)))
    rows = []
    for b in range(budgets):
        constant = draw(st.integers(0, 500)) * cost_scales[b]
        least = constant + sum(group.costs[b][0] for group in groups)
        most = constant + sum(group.costs[b][-1] for group in groups)
        share = draw(st.floats(0, 1))
        rows.append(Row(f"b{b}", max(1, least + int(share * (most - least))), constant, "units"))
    return groups, rows


@given(instances())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_equals_brute_force_and_bounds_hold(case: tuple[list[Group], list[Row]]) -> None:
    groups, rows = case
    solution = solve(groups, rows)
    best, _ = optimum(groups, rows)
    tolerance = max(1e-4 * best, 1e-9)
    assert solution.status == "optimal"
    assert solution.loss_nats <= best + tolerance
    assert solution.independent_bound_nats <= best + 1e-12
    assert solution.bound_nats <= best + tolerance
    assert solution.used == uses(groups, rows, solution.choice)
    assert all(value <= row.limit for value, row in zip(solution.used, rows, strict=True))


@given(instances())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_more_budget_is_never_worse_and_twice_is_the_same(case: tuple[list[Group], list[Row]]) -> None:
    groups, rows = case
    tight = solve(groups, rows)
    again = solve(groups, rows)
    assert tight.choice == again.choice
    loose = solve(groups, [Row(row.label, row.limit * 2, row.constant, row.unit) for row in rows])
    assert loose.loss_nats <= tight.loss_nats * (1 + 1e-4) + 1e-9


CBC_LOST_THIS = (
    [
        Group("g0", (1.5, 1.0, 1.0, 1.0, 0.0), ((1, 3, 254, 254, 469),)),
        Group("g1", (1.0, 0.0, 0.0, 0.0), ((0, 251, 538, 730),)),
        Group("g2", (0.0, 0.0), ((0, 147),)),
    ],
    [Row("b0", 253, 0, "units")],
)


@example(CBC_LOST_THIS)
@given(instances())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_highs_alone_agrees_with_enumeration(case: tuple[list[Group], list[Row]]) -> None:
    groups, rows = case
    one, two = solve(groups, rows), solve(groups, rows, most_states=0)
    assert one.loss_nats == pytest.approx(two.loss_nats, rel=3e-4, abs=3e-9)


def test_a_raw_scale_trap_is_solved_exactly() -> None:
    """Losses near 1e-6 beside bytes near 1e10, the mixture on which unscaled programs return wrong optima."""
    groups = [
        Group(
            f"g{g}",
            tuple(1e-6 * (5 - o) ** 2 * (1 + g % 3) if o else 1.0 for o in range(6)),
            (tuple(10**9 * (o + 1) + 7 * g for o in range(6)),),
        )
        for g in range(8)
    ]
    rows = [Row("bytes", 30 * 10**9 + 200, 0, "bytes")]
    assert solve(groups, rows).loss_nats == pytest.approx(brute_force_by_counting(groups, rows), rel=1e-4)


def brute_force_by_counting(groups: list[Group], rows: list[Row]) -> float:
    """Dynamic programming over exact costs."""
    reach = {0: 0.0}
    for group in groups:
        following: dict[int, float] = {}
        for spent, loss in reach.items():
            for extra, more in zip(group.costs[0], group.losses, strict=True):
                if spent + extra <= rows[0].limit:
                    following[spent + extra] = min(following.get(spent + extra, math.inf), loss + more)
        reach = following
    return min(reach.values())


def test_infeasible_says_what_each_budget_can_reach() -> None:
    groups = [Group("a", (1.0, 0.0), ((10, 20), (1, 2))), Group("b", (1.0, 0.0), ((10, 20), (1, 2)))]
    rows = [Row("params", 24, 5, "parameters"), Row("kv_bytes_per_token", 4, 0, "bytes")]
    with pytest.raises(BudgetInfeasible) as caught:
        solve(groups, rows)
    assert caught.value.exit_code == 3
    assert "params: 24 parameters asked, 25 is the least" in caught.value.detail
    assert [a["met"] for a in caught.value.extra["achievable"]] == [False, True]


def test_everything_fits_costs_nothing() -> None:
    groups = [Group("a", (0.5, 0.0), ((1, 2),))]
    solution = solve(groups, [Row("params", 100, 0, "parameters")])
    assert solution.choice == [1]
    assert solution.loss_nats == 0.0
    assert solution.gap == 0.0


@given(instances())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_shadow_prices_are_multipliers_of_the_linear_relaxation(case: tuple[list[Group], list[Row]]) -> None:
    """By strong duality the Lagrangian at the prices is the relaxation's optimum; multipliers need not be unique."""
    groups, rows = case
    solution = solve(groups, rows)
    prices = solution.shadow_prices
    assert all(price >= 0 for price in prices)
    spent = sum(price * (row.limit - row.constant) for price, row in zip(prices, rows, strict=True))
    assert lagrangian(groups, rows, prices) == pytest.approx(
        relaxed(groups, rows), rel=1e-6, abs=1e-9 + 1e-9 * spent
    )
