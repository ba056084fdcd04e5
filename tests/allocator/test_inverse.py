"""The least of a metric at a stated loss, against the problem it is the inverse of; `test_least` has it against all plans."""

from __future__ import annotations

import math

import pytest

from allocator.base.errors import BudgetInfeasible, BudgetSyntax, InvalidInput
from allocator.plan.ask.budgets import parse_budgets, parse_metric
from allocator.plan.ask.least import Least
from allocator.plan.inverse import minimize
from allocator.plan.metrics.costs import CostModel
from allocator.plan.planning import plan_from_profile, question_of
from allocator.plan.program.solve import Program
from tests.support.profiles import small_profile
from tests.support.program_instances import instance

METRICS = ["kv_bytes_per_token", "params", "memory@batch=4,context=100"]


@pytest.mark.parametrize("metric", METRICS)
def test_it_inverts_the_plan_of_a_budget(metric: str) -> None:
    profile = small_profile()
    name, at, options = metric.partition("@")
    plan = plan_from_profile(profile, [f"{name}=0.7{at}{options}", "block_params=0.8"])
    back = minimize(profile, metric, max_loss_nats=plan.predicted.loss_nats, budgets=["block_params=0.8"])
    costs = CostModel(profile.model.geometry)
    used = costs.total(parse_metric(metric), back.chosen)
    assert used <= plan.budgets[0].used
    assert back.predicted.loss_nats <= plan.predicted.loss_nats
    certificate = back.certificate
    assert certificate.status == "optimal"
    assert certificate.dual_bound <= certificate.independent_bound <= certificate.bound <= used
    assert certificate.unit == plan.budgets[0].unit


def test_the_document_says_what_was_minimised_and_its_digest_covers_it() -> None:
    profile = small_profile()
    one = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.01)
    assert one.objective == "least kv_bytes_per_token at a predicted loss of at most 0.01 nats/token"
    (budget,) = one.budgets
    assert budget.text == f"kv_bytes_per_token={one.costs['kv_bytes_per_token']}"
    assert budget.used == budget.limit == one.costs["kv_bytes_per_token"]
    assert question_of(one, profile).budgets == parse_budgets([budget.text]), (
        "whoever reads the plan can ask it again"
    )
    assert one.digest == one.own_digest
    other = one.replaced(objective=one.objective.replace("0.01", "0.02"))
    assert other.own_digest != one.digest
    loose = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.1)
    assert loose.costs["kv_bytes_per_token"] < one.costs["kv_bytes_per_token"]
    pinned = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.01, constraints={"pin": ["*.ov=dense"]})
    assert {row.ov for row in pinned.ranks} == {16}
    assert pinned.costs["kv_bytes_per_token"] >= one.costs["kv_bytes_per_token"]


def test_no_loss_at_all_and_any_loss() -> None:
    profile = small_profile()
    dense = minimize(profile, "params", max_loss_nats=0.0)
    assert dense.predicted.loss_nats == 0.0
    assert dense.costs["params"] == dense.dense["params"]
    least = minimize(profile, "kv_bytes_per_token", max_loss_nats=1e6)
    assert {(row.qk, row.ov) for row in least.ranks} == {(2, 1)}


def test_what_cannot_be_kept_or_read_is_said() -> None:
    profile = small_profile()
    with pytest.raises(BudgetInfeasible) as caught:
        minimize(profile, "kv_bytes_per_token", max_loss_nats=1e-9, budgets=["block_params=0.5"])
    (said,) = caught.value.extra["achievable"]
    assert said["metric"] == "predicted_loss_nats"
    again = minimize(
        profile, "kv_bytes_per_token", max_loss_nats=said["minimum"], budgets=["block_params=0.5"]
    )
    assert again.predicted.loss_nats <= said["minimum"]
    for loss in (-1.0, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="max_loss_nats"):
            minimize(profile, "params", max_loss_nats=loss)
    with pytest.raises(BudgetSyntax, match="a metric is one of"):
        minimize(profile, "parameters", max_loss_nats=1.0)


def test_the_bound_of_a_tighter_limit_is_above_the_loss_of_a_looser_one() -> None:
    """What the search rests on, at real size."""
    groups, rows = instance(1, 96, 32, 2)
    program = Program(groups, 2)
    loose, tight = (
        program.solve(
            [type(rows[0])("params", int(rows[0].limit * share), rows[0].constant, "units"), rows[1]]
        )
        for share in (1.0, 0.95)
    )
    assert tight.independent_bound_nats > loose.loss_nats
    slope = loose.shadow_prices[0] * (rows[0].limit - int(rows[0].limit * 0.95))
    assert loose.dual_bound_nats + slope <= tight.loss_nats


def test_a_plan_says_which_question_it_answers() -> None:
    profile = small_profile()
    plan = minimize(profile, "memory@context=64,batch=4", max_loss_nats=0.25)
    assert Least.of(plan.objective) == Least("memory@batch=4,context=64", 0.25)
    said = "least kv_bytes_per_token at a predicted loss of at most 1e-05 nats/token"
    assert Least.of(said) == Least("kv_bytes_per_token", 1e-5)
    assert Least.of(plan_from_profile(profile, ["params=0.9"]).objective) is None


def test_a_budget_on_the_least_metric_is_refused() -> None:
    refused = "kv_bytes_per_token is to be as small as it can; give budgets on other metrics alone"
    budgets = ["params=0.99", "kv_bytes_per_token=0.9"]
    with pytest.raises(InvalidInput, match=refused) as caught:
        minimize(small_profile(), "kv_bytes_per_token", max_loss_nats=0.25, budgets=budgets)
    (refused,) = caught.value.fields
    assert (refused.field, refused.found) == ("budgets[1]", "kv_bytes_per_token=0.9")


def test_a_budget_that_no_ranks_meet_is_refused_as_for_a_plan() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        minimize(small_profile(), "params", max_loss_nats=1.0, budgets=["kv_bytes_per_token=2"])
    params, cache = caught.value.extra["achievable"]
    # Of 110,000 parameters 73,728 are in blocks; of these remain those at ranks 2, 1 and 2. The cache takes 12 bytes a layer.
    least = 110_000 - 73_728 + 2 * (64 * 6 * (2 + 1) + 3 * 64 * 2)
    met = {"metric": "params", "limit": 110_000, "minimum": least, "unit": "parameters", "met": True}
    assert params == met
    assert (cache["metric"], cache["limit"], cache["minimum"]) == ("kv_bytes_per_token", 2, 24)
    assert cache["met"] is False
