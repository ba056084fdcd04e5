"""What a plan says of itself: every field against numbers by hand, or against the ranks counted once more."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.plan import Certificate, Plan
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import (
    certificate_of,
    plan_document,
    plan_from_profile,
    question_of,
    refined_plan,
)
from allocator.plan.program.problem import question
from allocator.plan.program.solve import Solution, solve
from tests.support.latency import table
from tests.support.plans import ranks_of
from tests.support.profiles import (
    SMALL,
    SMALL_DENSE,
    gradient_profile,
    measured_profile,
    quantized_profile,
    small_costs,
    small_profile,
)

PROFILE = small_profile()
BUDGETS = ["block_params=0.7", "kv_bytes_per_token=0.6"]
HALF = Ranks((8, 10), (7, 6), (64, 60))
"""Ranks that nobody chose."""
SUM = "sum of single-component KL to the dense model, nats/token"


def curve_sum(ranks: Ranks) -> float:
    return sum(curve.loss_at(*ranks.at(curve.layer, curve.component)) for curve in PROFILE.curves)


def test_a_plan_says_of_what_it_is_and_what_was_asked() -> None:
    constraints = {"align": ["mlp=4"], "pin": ["0.ov=7"]}
    plan = plan_from_profile(PROFILE, BUDGETS, constraints=constraints)
    document = plan.document
    assert document["schema"] == "rankalloc.plan/1"
    assert document["model"] == {
        "reference": "local:small",
        "weights_sha256": "a" * 64,
        "geometry": SMALL.document,
    }
    assert (document["solver"], document["profile_key"]) == ("a3", "small")
    assert (document["objective"], document["allocation"]) == (SUM, "ilp")
    assert document["constraints"] == {"steps": {"qk": 2, "ov": 1, "mlp": 2}, **constraints}
    assert (document["measured"], document["created_by"]) == (None, "default")
    assert not {"bits", "latent", "joint", "latency_table", "refinement"} & document.keys()
    assert [(row["metric"], row["limit"], row["unit"], row["text"]) for row in document["budgets"]] == [
        ("block_params", 51_609, "parameters", BUDGETS[0]),
        ("kv_bytes_per_token", 153, "bytes", BUDGETS[1]),
    ]
    assert plan_from_profile(PROFILE, BUDGETS, created_by="ann").created_by == "ann"
    assert document["predicted"] == {"loss_nats": pytest.approx(curve_sum(plan.chosen), rel=1e-12)}


def test_a_budget_binds_where_more_of_it_would_save_loss() -> None:
    plan = plan_from_profile(PROFILE, ["block_params=0.7", "params=1"])
    tight, loose = plan.budgets
    assert (tight.binding, loose.binding) == (True, False)
    assert loose.shadow_price == 0.0
    assert loose.shadow_price_text == "0 nats: more of it would win nothing"
    assert loose.used < loose.limit == 110_000
    # A hundredth more of the limit saves about what its price says.
    more = plan_from_profile(PROFILE, [f"block_params={tight.limit + 1000}"])
    assert 1000 * tight.shadow_price == pytest.approx(
        plan.predicted.loss_nats - more.predicted.loss_nats, rel=0.5
    )


def test_the_baselines_are_what_uniform_ratios_would_lose() -> None:
    plan = plan_from_profile(PROFILE, BUDGETS, constraints={"pin": ["1.qk=dense"]})
    assert set(plan.baseline) == {"uniform", "uniform_kind"}
    for baseline in plan.baseline.values():
        assert baseline.costs == small_costs(baseline.chosen)
        assert baseline.predicted_loss_nats == pytest.approx(curve_sum(baseline.chosen), rel=1e-12)
        assert baseline.chosen.qk[1] == 16, "constraints hold for them too"
        assert all(baseline.costs[row.metric] <= row.limit for row in plan.budgets)


def solution(**changes: Any) -> Solution:
    numbers = {
        "loss_nats": 0.5,
        "bound_nats": 0.375,
        "independent_bound_nats": 0.25,
        "dual_bound_nats": 0.125,
    }
    return Solution(
        **{
            "choice": [0],
            "used": (1,),
            "status": "feasible",
            "gap": 0.0625,
            "shadow_prices": (0.0,),
            "most_states": 7,
            "proof": "none",
            "warnings": ("one", "two"),
            "time_s": 1.23456789,
            **numbers,
            **changes,
        }
    )


def test_a_certificate_says_what_was_proven_and_by_whom() -> None:
    certificate = certificate_of(solution())
    assert (
        Certificate.read(certificate).document
        == certificate
        == {
            "status": "feasible",
            "gap": 0.0625,
            "bound": 0.375,
            "independent_bound": 0.25,
            "dual_bound": 0.125,
            "unit": "nats/token",
            "proof": "none",
            "warnings": ["one", "two"],
            "solver": certificate["solver"],
            "most_states": 7,
            "time_s": 1.2346,
        }
    )
    assert "highs" in certificate["solver"].lower()


def test_a_plan_is_proven_with_as_much_enumeration_as_is_allowed() -> None:
    usual = plan_from_profile(PROFILE, BUDGETS)
    without = plan_from_profile(PROFILE, BUDGETS, most_states=0)
    assert without.certificate.most_states == 0 < usual.certificate.most_states
    assert (without.certificate.status, without.certificate.proof) == ("optimal", "solver")
    assert usual.certificate.proof == "enumeration"
    assert without.predicted.loss_nats == pytest.approx(usual.predicted.loss_nats, rel=1e-4)
    for certificate in (usual.certificate, without.certificate):
        assert certificate.bound <= usual.predicted.loss_nats * (1 + 1e-9)
        assert certificate.gap <= 1e-4


def test_where_no_time_is_left_for_enumeration_the_solver_is_asked_and_what_is_open_is_said() -> None:
    profile = measured_profile(SMALL.replaced(layers=12, total_params=600_000))
    budgets = [*BUDGETS, "flops_per_token=0.7"]
    usual, hasty = (plan_from_profile(profile, budgets, time_limit_s=seconds) for seconds in (60, 0))
    assert (usual.certificate.status, usual.certificate.proof) == ("optimal", "enumeration")
    assert hasty.certificate.proof in ("solver", "none")
    assert (
        hasty.certificate.bound
        <= usual.predicted.loss_nats * (1 + 1e-9)
        <= hasty.predicted.loss_nats * (1 + 1e-4)
    )


def test_around_a_plan_losses_start_at_what_that_one_measured() -> None:
    start = plan_from_profile(measured_profile(), ["block_params=0.7"])
    around = [{name: getattr(row, name) for name in ("layer", "qk", "ov", "mlp")} for row in start.ranks]
    profile = measured_profile(around=around)
    plan = plan_from_profile(profile, ["block_params=0.7"])
    assert plan.objective == (
        "KL to the dense model of the plan profiled around, plus the sum of single-component changes, nats/token"
    )
    asked = question_of(plan, profile)
    there = plan_document(asked, ranks_of(around), allocation="ilp")
    assert there.predicted.loss_nats == pytest.approx(0.010123456789012345, rel=1e-9)
    named = plan_document(asked, ranks_of(around), allocation="ilp", objective="bytes", created_by="bob")
    assert (named.objective, named.created_by) == ("bytes", "bob")


def test_a_document_of_any_ranks_counts_them_and_proves_nothing() -> None:
    asked = question(PROFILE, parse_budgets(BUDGETS))
    plan = plan_document(asked, HALF, allocation="uniform")
    assert plan.chosen == HALF
    assert plan.costs == small_costs(HALF)
    assert plan.dense == SMALL_DENSE
    assert plan.predicted.loss_nats == pytest.approx(curve_sum(HALF), rel=1e-12)
    assert (plan.certificate, plan.created_by, plan.allocation) == (None, "default", "uniform")
    assert plan.digest == plan.own_digest
    for row in plan.budgets:
        assert row.used == plan.costs[row.metric]
        assert (row.binding, row.shadow_price, row.shadow_price_text) == (None, None, None)
    priced = plan_document(asked, HALF, allocation="uniform", prices=[2e-6, 0.0])
    assert [(row.binding, row.shadow_price) for row in priced.budgets] == [(True, 2e-6), (False, 0.0)]
    assert priced.budgets[0].shadow_price_text == "0.0020 nats per 1 K block parameters"


def test_refined_ranks_are_counted_anew_and_keep_the_request() -> None:
    plan = plan_from_profile(PROFILE, BUDGETS, created_by="ann", constraints={"min_rank": ["ov=2"]})
    nats = dict.fromkeys(("additivity_error", "predicted_nats", "start_nats", "final_nats"), 0.25)
    record = {"evaluations": 3, **nats, "stopped": "evaluations", "steps": []}
    refined = refined_plan(plan, PROFILE, HALF, record)
    assert refined.chosen == HALF
    assert refined.costs == small_costs(HALF)
    assert refined.predicted.loss_nats == pytest.approx(curve_sum(HALF), rel=1e-12)
    assert [row.used for row in refined.budgets] == [
        small_costs(HALF)[name] for name in ("block_params", "kv_bytes_per_token")
    ]
    assert refined.certificate is None
    assert refined.refinement.document == {
        **record,
        "start": {name: plan.document[name] for name in ("digest", "ranks", "predicted", "certificate")},
    }
    assert refined.digest == refined.own_digest != plan.digest
    changed = {"ranks", "costs", "predicted", "certificate", "refinement", "digest", "budgets"}
    assert {k: v for k, v in refined.document.items() if k not in changed} == {
        k: v for k, v in plan.document.items() if k not in changed
    }
    assert [{**row, "used": 0} for row in refined.document["budgets"]] == [
        {**row, "used": 0} for row in plan.document["budgets"]
    ]


def test_a_plan_in_bits_keeps_the_bits_and_the_best_in_one_number_of_them() -> None:
    profile, budgets = quantized_profile(), ["memory=0.6@context=64"]
    plan = plan_from_profile(profile, budgets, bits=[8])
    assert plan.document["bits"] == [8]
    assert plan.baseline["uniform_bits"].chosen == question_of(plan, profile).uniform_bits()
    plain = plan_from_profile(profile, ["params=0.9"])
    assert not plain.chosen.bits
    assert (plain.bits, set(plain.baseline)) == ((8, 4), {"uniform", "uniform_kind"})
    uniform = plan_from_profile(profile, budgets, bits=[8], allocation="uniform")
    assert uniform.ranks == plan.baseline["uniform_bits"].ranks
    assert uniform.predicted.loss_nats == plan.baseline["uniform_bits"].predicted_loss_nats
    without = plan_from_profile(profile, ["params=0.9"], bits=[], allocation="uniform")
    assert without.ranks == without.baseline["uniform"].ranks
    assert "bits" not in without.document


def test_the_uniform_allocation_keeps_to_constraints_and_says_who_asked() -> None:
    constraints = {"pin": ["1.qk=dense"], "min_rank": ["mlp=90"]}
    plan = plan_from_profile(
        PROFILE, BUDGETS[1:], constraints=constraints, allocation="uniform", created_by="ann"
    )
    assert plan.ranks == plan.baseline["uniform"].ranks
    assert plan.chosen.qk[0] < plan.chosen.qk[1] == 16
    assert min(plan.chosen.mlp) >= 90
    assert (plan.created_by, plan.allocation) == ("ann", "uniform")
    assert plan_from_profile(PROFILE, BUDGETS, allocation="uniform").created_by == "default"


def test_the_uniform_allocation_refuses_what_no_ranks_reach() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        plan_from_profile(PROFILE, ["kv_bytes_per_token=0.01"], allocation="uniform")
    # One number of QK's pairs and one of OV: 2 layers x 2 heads x 3 numbers of 2 bytes.
    assert [row["minimum"] for row in caught.value.extra["achievable"]] == [24]


def test_the_uniform_allocation_refuses_what_takes_bits_by_component() -> None:
    """Attention in four bits beside MLPs of 126, which four bits cannot hold but eight can."""
    constraints = {"pin": ["*.qk=16", "*.ov=16", "*.mlp=126"]}
    profile = quantized_profile()
    least = plan_from_profile(profile, ["params=1"], constraints=constraints, allocation="uniform")
    assert least.chosen.mlp == (126, 126)
    asked = question(profile, parse_budgets(["memory=0.9@context=1"]), constraints)
    floor = sum(group.costs[0][0] for group in asked.groups) + asked.rows[0].constant
    with pytest.raises(
        InvalidInput, match="uniform meets them at no ratio; use ilp: the budgets need bits"
    ) as caught:
        plan_from_profile(
            profile, [f"memory={floor}@context=1"], constraints=constraints, allocation="uniform"
        )
    assert [(error.field, error.found) for error in caught.value.fields] == [("allocation", "uniform")]
    assert plan_from_profile(profile, [f"memory={floor}@context=1"], constraints=constraints).chosen.bits


def test_where_a_constraint_asks_for_a_latent_there_is_no_uniform_ratio() -> None:
    profile = gradient_profile(SMALL.replaced(fixed=("qk",)), latents=("latent",))
    constraints = {"pin": ["0.qk=6"]}
    plan = plan_from_profile(profile, ["params=1"], constraints=constraints)
    assert plan.ranks[0].qk_form == "latent"
    assert (plan.latent, plan.joint, plan.baseline) == (True, False, {})
    with pytest.raises(InvalidInput, match="uniform meets them at no ratio"):
        plan_from_profile(profile, ["params=1"], constraints=constraints, allocation="uniform")
    assert question_of(plan, profile).choice(plan.chosen)
    heads = plan_from_profile(profile, ["params=1"], latents=False)
    assert "latent" not in heads.document
    assert question_of(heads, profile).latents == ()


def test_a_plan_keeps_the_timings_of_its_own_budgets() -> None:
    at = "batch=1,context=64"
    plan = plan_from_profile(PROFILE, [f"latency=0.9@{at},phase=prefill", "params=1"], latency=table())
    assert plan.latency_table.digest == table().digest
    assert [timing.phase for timing in plan.latency_table.timings] == ["prefill"]
    both = [f"latency=0.9@{at},phase={phase}" for phase in ("prefill", "decode")]
    assert len(plan_from_profile(PROFILE, both, latency=table()).latency_table.timings) == 2
    assert "latency_table" not in plan_from_profile(PROFILE, ["params=0.95"], latency=table()).document
    uniform = plan_from_profile(PROFILE, both, latency=table(), allocation="uniform")
    assert len(uniform.latency_table.timings) == 2
    assert question_of(plan, PROFILE).choice(plan.chosen)


def test_a_stored_plan_asks_its_own_question_again() -> None:
    budgets, constraints = (
        ["block_params=0.7", "kv_bytes_per_token=0.8"],
        {"pin": ["1.ov=9"], "target": ["vllm"]},
    )
    plan = plan_from_profile(PROFILE, budgets, constraints=constraints)
    asked = question_of(Plan.stored(plan.document), PROFILE)
    assert [row.limit for row in asked.rows] == [row.limit for row in plan.budgets]
    assert asked.limits.document == constraints
    assert asked.ranks(solve(asked.groups, asked.rows).choice) == plan.chosen
