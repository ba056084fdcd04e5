"""The model of the loss around a plan: numbers worked out by hand, and its best plan against all in the region."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.local_model import LocalModel, LocalProblem, best_choice, block_changes
from allocator.plan.metrics.costs import CostModel
from allocator.plan.program.problem import question
from tests.support.profiles import small_profile
from tests.support.tiny import curves_of, falling, tiny_profile

STEEP = (0.70, 0.52, 0.40, 0.30, 0.20, 0.08, 0.02, 0.0)
"""At the eight ranks of QK of layer 0."""


def problem_of(losses: Sequence[float] = STEEP, target: str | None = None) -> LocalProblem:
    """Of `small_profile`, with these losses of layer 0's QK."""
    profile = small_profile()
    first, *others = profile.curves
    curves = (first.replaced(loss_nats=tuple(losses)), *others)
    constraints = {} if target is None else {"target": [target]}
    budgets = parse_budgets(["block_params=0.6"])
    return LocalProblem(question(profile.replaced(curves=curves), budgets, constraints))


@pytest.mark.parametrize(
    ("pick", "radius", "measured", "changes"),
    [
        # Twice, and half, of what the curve says at the ends; so everywhere between.
        (4, 3, {1: 0.64, 7: -0.1}, {1: 0.64, 2: 0.4, 3: 0.2, 4: 0, 5: -0.06, 6: -0.09, 7: -0.1}),
        # What is measured on neither side goes by the factor that the others have in common.
        (4, 2, {}, {2: 0.3, 3: 0.15, 4: 0, 5: -0.18, 6: -0.27}),
        (4, 2, {2: 0.1}, {2: 0.1, 3: 0.05, 4: 0, 5: -0.18, 6: -0.27}),
        (4, 2, {6: -0.9}, {2: 0.3, 3: 0.15, 4: 0, 5: -0.6, 6: -0.9}),
        # The region ends where the ranks do.
        (1, 3, {0: 0.36, 4: -0.16}, {0: 0.36, 1: 0, 2: -0.06, 3: -0.11, 4: -0.16}),
        (6, 4, {2: 0.38, 7: -0.04}, {2: 0.38, 3: 0.28, 4: 0.18, 5: 0.06, 6: 0, 7: -0.04}),
        # More rank costs no more than less, whatever the noise says.
        (4, 2, {2: 0.4, 6: 0.09}, {2: 0.4, 3: 0.2, 4: 0, 5: 0, 6: 0}),
        (4, 2, {2: -0.2, 6: -0.36}, {2: 0, 3: 0, 4: 0, 5: -0.04, 6: -0.16}),
    ],
)
def test_changes_have_the_curves_shape_and_meet_what_was_measured(
    pick: int, radius: int, measured: dict[int, float], changes: dict[int, float]
) -> None:
    found = block_changes(problem_of(), 0, pick, radius, measured, 1.5)
    assert sorted(found) == list(changes)
    assert found == pytest.approx(changes, abs=1e-12)


def test_where_the_curve_is_flat_changes_are_linear_in_the_options() -> None:
    problem = problem_of((0.3,) * 7 + (0.0,))
    found = block_changes(problem, 0, 3, 3, {0: 0.06, 6: -0.09}, 2.0)
    assert found == pytest.approx({0: 0.06, 1: 0.04, 2: 0.02, 3: 0, 4: -0.03, 5: -0.06, 6: -0.09}, abs=1e-12)


def test_a_pair_moves_in_both_directions_at_once() -> None:
    """QK has 8 ranks and OV 16: an option is 16 x the place of QK and the place of OV."""
    problem = problem_of(target="vllm")
    assert problem.pair(0)
    assert not problem.pair(1)
    assert len(problem.options[0]) == 8 * 16
    assert (problem.steps(0), problem.steps(1)) == (16, 64)
    near = {16 * qk + ov for qk in (2, 3, 4) for ov in (9, 10, 11)}
    assert set(problem.near(0, 16 * 3 + 10, 1)) == near
    assert set(problem.near(0, 0, 2)) == {16 * qk + ov for qk in range(3) for ov in range(3)}
    losses = problem.question.groups[0].losses
    found = block_changes(problem, 0, 58, 1, {57: 5.0}, 0.5)
    assert found == pytest.approx({option: (losses[option] - losses[58]) / 2 for option in near})
    assert [problem_of().steps(block) for block in range(6)] == [8, 16, 64, 8, 16, 64]


def test_a_smaller_region_has_the_same_changes_of_fewer_options() -> None:
    problem = problem_of()
    center = (4, 8, 30, 0, 15, 63)
    changes = tuple(
        {option: 0.01 * (pick - option) for option in problem.near(block, pick, 3)}
        for block, pick in enumerate(center)
    )
    model = LocalModel(center, changes)
    nearer = model.within(problem, {0: 1, 1: 2, 2: 3, 3: 1, 4: 2, 5: 1})
    assert nearer.center == center
    assert [sorted(each) for each in nearer.changes] == [
        [3, 4, 5], [6, 7, 8, 9, 10], [27, 28, 29, 30, 31, 32, 33], [0, 1], [13, 14, 15], [62, 63],
    ]  # fmt: skip
    assert all(nearer.changes[b][o] == changes[b][o] for b in range(6) for o in nearer.changes[b])
    assert model.of([3, 8, 30, 2, 15, 60]) == pytest.approx(0.01 + 0 + 0 - 0.02 + 0 + 0.03)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_best_plan_of_a_region_is_the_best_of_all_in_it(data: st.DataObject) -> None:
    profile = tiny_profile(data.draw(curves_of(falling(2.0**-10))))
    share = data.draw(st.integers(6, 20)) / 20
    budgets = parse_budgets([f"block_params={share}", "kv_bytes_per_token=0.8"])
    problem = LocalProblem(question(profile, budgets))
    costs = CostModel(profile.model.geometry)
    changes = []
    for _ in range(6):
        low, high = data.draw(st.integers(0, 1)), data.draw(st.integers(1, 3))
        values = sorted(data.draw(st.lists(st.integers(-50, 50), min_size=4, max_size=4)), reverse=True)
        changes.append({option: values[option] * 2.0**-10 for option in range(low, high + 1)})
    model = LocalModel((1,) * 6, tuple(changes))
    some = data.draw(st.tuples(*(st.integers(0, 3) for _ in range(6))))
    ranks = problem.question.ranks(some)
    assert problem.fits(some) == all(costs.total(b.metric, ranks) <= b.limit(costs) for b in budgets)
    within = [
        sum(column[option] for column, option in zip(changes, choice, strict=True))
        for choice in itertools.product(*changes)
        if problem.fits(choice)
    ]
    if not within:
        with pytest.raises(BudgetInfeasible):
            best_choice(problem, model)
        return
    best = best_choice(problem, model)
    assert problem.fits(best)
    assert model.of(best) == pytest.approx(min(within), abs=1e-9)
