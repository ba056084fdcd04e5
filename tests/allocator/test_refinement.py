"""Refinement on losses that are known functions of the ranks: sums, and sums with interactions that no curve shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.plan.ask.constraints import Place, parse_constraints
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile, question_of, refined_plan
from allocator.plan.refinement import Record, refine
from tests.support.plans import ranks_of
from tests.support.profiles import small_costs, small_profile

PROFILE = small_profile()
CURVES = list(PROFILE.curves)
GEOMETRY = PROFILE.model.geometry
COSTS = CostModel(GEOMETRY)
BUDGETS = ["block_params=0.6", "kv_bytes_per_token=0.6"]


@dataclass
class Known:
    """Measures a function; counts what it is asked."""

    loss: Callable[[Ranks], float]
    plans: list[Ranks] = field(default_factory=list)
    trials: list[dict[Place, list[int]]] = field(default_factory=list)
    spent: float = 0.0

    def plan(self, ranks: Ranks) -> float:
        if ranks not in self.plans:
            self.plans.append(ranks)
            self.spent += 1
        return self.loss(ranks)

    def changes(self, ranks: Ranks, trials: Mapping[Place, Sequence[int]]) -> dict[tuple[Place, int], float]:
        found = {}
        self.trials.append({place: list(at) for place, at in trials.items()})
        for place, ranks_there in trials.items():
            for rank in ranks_there:
                self.spent += (GEOMETRY.layers - place[0]) / GEOMETRY.layers
                found[place, rank] = self.loss(changed(ranks, place, rank)) - self.loss(ranks)
        return found


def changed(ranks: Ranks, place: Place, rank: int) -> Ranks:
    rows = ranks.layers()
    rows[place[0]][place[1]] = rank
    return ranks_of(rows)


def additive(ranks: Ranks) -> float:
    """The sum of what each curve has at its rank."""
    return math.fsum(c.loss_nats[c.ranks.index(ranks.of(c.component)[c.layer])] for c in CURVES)


def interacting(strength: float, scales: Sequence[float] = (1.0,) * 6) -> Callable[[Ranks], float]:
    """Components that hurt more, or less, than their curves say, and more together than each alone."""

    def loss(ranks: Ranks) -> float:
        each = [
            scale * curve.loss_at(ranks.of(curve.component)[curve.layer])
            for curve, scale in zip(CURVES, scales, strict=True)
        ]
        roots = [math.sqrt(value) for value in each]
        pairs = sum(a * b for i, a in enumerate(roots) for b in roots[i + 1 :])
        return sum(each) + strength * pairs

    return loss


def run(
    measure: Known, *, evaluations: int = 64, constraints: dict[str, list[str]] | None = None
) -> tuple[Ranks, Ranks, Record]:
    plan = plan_from_profile(PROFILE, BUDGETS, constraints=constraints)
    start = plan.chosen
    ranks, record = refine(question_of(plan, PROFILE), start, measure, evaluations=evaluations)
    return start, ranks, record


def test_losses_that_add_up_cost_one_evaluation() -> None:
    measure = Known(additive)
    start, ranks, record = run(measure)
    assert ranks == start
    assert (record.stopped, record.evaluations, measure.spent) == ("additive", 1, 1)
    assert record.document()["additivity_error"] == pytest.approx(0, abs=1e-9)


@given(
    st.floats(0.1, 2),
    st.lists(st.floats(0.1, 10), min_size=6, max_size=6),
    st.integers(2, 80),
    st.sampled_from(
        [None, {"tie": ["mlp"]}, {"align": ["mlp=8"], "min_rank": ["ov=2"]}, {"pin": ["0.qk=8"]}]
    ),
)
@settings(max_examples=30, deadline=None)
def test_never_worse_never_over_a_budget_never_beyond_the_evaluations(
    strength: float, scales: list[float], evaluations: int, constraints: dict[str, list[str]] | None
) -> None:
    loss = interacting(strength, scales)
    measure = Known(loss)
    start, ranks, record = run(measure, evaluations=evaluations, constraints=constraints)
    assert loss(ranks) <= loss(start)
    assert record.start_nats == loss(start)
    assert record.final_nats == loss(ranks)
    assert measure.spent <= record.evaluations + 1e-9 <= evaluations + 1e-9
    # 60 % of 73,728 and of 256.
    used = small_costs(ranks)
    assert used["block_params"] <= 44_236
    assert used["kv_bytes_per_token"] <= 153
    limits = parse_constraints(constraints, GEOMETRY, {(c.layer, c.component): c.ranks for c in CURVES})
    for block in limits.blocks():
        assert len({ranks.of(c)[layer] for layer, c in block}) == 1
        assert all(ranks.of(c)[layer] in limits.allowed[layer, c] for layer, c in block)
    assert {step["to_nats"] for step in record.steps} <= {loss(plan) for plan in measure.plans}
    best = loss(start)
    for step in record.steps:
        assert step["from_nats"] == best
        assert step["taken"] == (step["to_nats"] < best)
        best = min(best, step["to_nats"])
    assert best == loss(ranks)


def test_the_first_changes_are_an_eighth_of_each_components_ranks_away() -> None:
    """QK has 8 ranks, OV 16 and an MLP 64; there is nothing beyond the ends."""
    measure = Known(interacting(1.0))
    start, _, _ = run(measure, evaluations=100)
    for (layer, component), trials in measure.trials[0].items():
        step = {"qk": 2, "ov": 2, "mlp": 16}[component]
        rank, full = start.of(component)[layer], GEOMETRY.full_rank(component)
        least = GEOMETRY.step(component)
        assert trials == sorted({max(least, rank - step), min(full, rank + step)} - {rank})
    assert len(measure.trials[0]) == 6


def test_curves_that_are_wrong_by_a_factor_are_put_right() -> None:
    """Additive losses, each its curve times a factor of its own: the true optimum is known by the same program."""
    scales = (8.0, 0.2, 1.0, 0.2, 8.0, 1.0)
    loss = interacting(0.0, scales)
    start, ranks, record = run(Known(loss))
    curves = [
        curve.replaced(loss_nats=[scale * value for value in curve.loss_nats])
        for curve, scale in zip(PROFILE.curves, scales, strict=True)
    ]
    scaled = PROFILE.replaced(curves=curves)
    optimum = plan_from_profile(scaled, BUDGETS).predicted.loss_nats
    assert loss(start) > 1.2 * optimum, "or there was nothing to do"
    assert loss(ranks) <= 1.02 * optimum
    assert record.evaluations < 64


def test_the_refined_plan_is_a_plan_that_proves_nothing_of_its_own() -> None:
    plan = plan_from_profile(PROFILE, BUDGETS)
    loss = interacting(1.0, (8.0, 0.2, 1.0, 0.2, 8.0, 1.0))
    _, ranks, record = run(Known(loss))
    found = refined_plan(plan, PROFILE, ranks, record.document())
    assert found.certificate is None
    assert found.refinement.start.certificate == plan.certificate
    assert found.refinement.start.digest == plan.digest != found.digest == found.own_digest
    assert found.predicted.loss_nats >= plan.predicted.loss_nats, "the surrogate had its optimum"
    assert found.costs == small_costs(ranks)
    assert [row.used for row in found.budgets] == [
        found.costs[name] for name in ("block_params", "kv_bytes_per_token")
    ]
    assert [row.limit for row in found.budgets] == [44_236, 153]
    assert all(row.used <= row.limit for row in found.budgets)
    assert found.chosen == ranks
