"""Explanations: each step's numbers are those of the plan that takes it, and an optimal plan's prices agree with it."""

from __future__ import annotations

import pytest

from allocator.base.errors import Conflict
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.plan import Plan
from allocator.plan.explain import explain
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.problem import predicted_loss
from tests.support.plans import ranks_of
from tests.support.profiles import small_profile

PROFILE = small_profile()
CURVES = list(PROFILE.curves)
BUDGETS = ["block_params=0.7", "kv_bytes_per_token=0.6"]


def with_rank(plan: Plan, layer: int, component: str, rank: int) -> Ranks:
    rows = plan.chosen.layers()
    rows[layer][component] = rank
    return ranks_of(rows)


def test_a_step_s_numbers_are_those_of_the_plan_that_takes_it() -> None:
    plan = plan_from_profile(PROFILE, BUDGETS)
    costs = CostModel(plan.model.geometry)
    before = plan.chosen
    found = explain(plan, PROFILE)
    assert len(found.components) == 6
    for each in found.components:
        for step in (each.up, each.down):
            if step is None:
                assert each.rank in (each.full_rank, 1, 2)
                continue
            after = with_rank(plan, each.layer, each.component, step.rank)
            change = predicted_loss(CURVES, after) - predicted_loss(CURVES, before)
            assert step.change_nats == pytest.approx(change, abs=1e-12)
            worth = sum(
                row.shadow_price * (costs.total(budget.metric, after) - costs.total(budget.metric, before))
                for row, budget in zip(plan.budgets, parse_budgets(BUDGETS), strict=True)
            )
            assert step.worth_nats == pytest.approx(worth, abs=1e-12)
            assert str(step.rank) in each.why


def test_in_an_optimal_plan_no_step_pays_at_its_prices_but_for_whole_steps() -> None:
    """Of six components at most as many as there are budgets may be off their prices: those that the relaxation splits."""
    plan = plan_from_profile(PROFILE, BUDGETS)
    off = [
        each
        for each in explain(plan, PROFILE).components
        if (each.up and -each.up.change_nats > 1.02 * each.up.worth_nats + 1e-9)
        or (each.down and each.down.change_nats < -0.98 * each.down.worth_nats - 1e-9)
    ]
    assert len(off) <= len(BUDGETS)


def test_constraints_are_named_as_the_reason() -> None:
    plan = plan_from_profile(
        PROFILE, ["params=0.95"], constraints={"pin": ["0.qk=dense", "1.ov=3"], "tie": ["mlp"]}
    )
    why = {(e.layer, e.component): e.why for e in explain(plan, PROFILE).components}
    assert why[0, "qk"] == "whole: it may take no other rank"
    assert why[1, "ov"] == "3: it may take no other rank"
    assert why[0, "mlp"].endswith("it shares its rank with other layers")


def test_another_profile_s_plan_is_refused() -> None:
    with pytest.raises(Conflict, match="was made from profile small, not from other"):
        explain(plan_from_profile(PROFILE, BUDGETS), small_profile("other"))
