"""The least of a metric on small random profiles: against all plans, and what its certificate, prices and refusals say."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import Budget, parse_budgets, parse_metric
from allocator.plan.documents.plan import Plan
from allocator.plan.inverse import minimize, plan_or_least
from allocator.plan.metrics.costs import CostModel
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.enumeration import MOST_STATES
from allocator.plan.program.highs import SOLVER
from allocator.plan.program.problem import question
from tests.support.profiles import measured_profile, quantized_profile, small_profile
from tests.support.programs import lagrangian, relaxed
from tests.support.tiny import AT, AllPlans, around, curves_of, falling, rising, times, tiny_profile

METRICS = [f"latency{AT}", "params", "kv_bytes_per_token", "memory@batch=3,context=50"]


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """What `minimize` is asked; the loss is often that of a plan exactly, and sometimes out of reach."""
    constant = draw(st.integers(0, 20)) + draw(st.sampled_from([0, 5_000_000]))
    steps = [draw(rising()) for _ in range(3)]
    dense = constant + 2 * sum(column[-1] for column in steps)
    latency = times(steps, constant, max(1, dense + draw(st.integers(-9, 9))))
    metric, *others = draw(st.permutations(METRICS))
    budgets = [
        f"{name}={draw(st.integers(5, 20)) / 20}{at}{options}"
        for name, at, options in (text.partition("@") for text in others[: draw(st.integers(0, 2))])
    ]
    losses = falling(draw(st.sampled_from([2.0**-10, 1e-3 / 7])))
    profile = tiny_profile(draw(curves_of(losses)), around=draw(st.none() | around()))
    asked = {"profile": profile, "metric": metric, "budgets": budgets, "latency": latency}
    reachable = np.unique(counted(**asked)[0])
    spot = draw(st.integers(0, max(len(reachable) - 1, 0)))
    most = float(reachable[spot]) if len(reachable) else 0.1
    return {**asked, "max_loss_nats": max(0.0, most + draw(st.sampled_from([0, 0, -1, 1])) * 2.0**-12)}


def counted(
    profile: Any, metric: str, budgets: list[str], latency: Any, **_: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Of every plan within the budgets what it loses, and what it takes of the metric."""
    costs = CostModel(profile.model.geometry, latency)
    others = parse_budgets(budgets) if budgets else []
    plans = AllPlans.of(profile, costs, [Budget("", parse_metric(metric), absolute=1), *others])
    limits = np.array([budget.limit(costs) for budget in others]).reshape(-1, 1)
    fits = (plans.used[1:] <= limits).all(axis=0)
    return plans.losses[fits], plans.used[0][fits]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions())
def test_it_is_the_least_of_all_plans_and_the_certificate_says_so(asked: dict[str, Any]) -> None:
    most = asked["max_loss_nats"]
    losses, values = counted(**asked)
    if not (losses <= most).any():
        with pytest.raises(BudgetInfeasible):
            minimize(**asked)
        return
    plan = minimize(**asked, time_limit_s=20.0)
    least = values[losses <= most].min()
    goal, *others = plan.budgets
    assert goal.used == goal.limit == least
    assert plan.predicted.loss_nats == pytest.approx(losses[values == least].min(), rel=1e-4, abs=1e-9)
    assert plan.predicted.loss_nats <= most
    assert [row.text for row in others] == asked["budgets"]
    assert all(row.used <= row.limit for row in others)
    certificate = plan.certificate
    assert certificate is not None
    assert certificate.proof == "enumeration"
    assert certificate.bound == certificate.independent_bound <= least
    # A plan that loses more by rounding alone cannot be ruled out.
    if not ((losses > most) & (losses <= most * (1 + 1e-9))).any():
        assert (certificate.status, certificate.gap, certificate.bound) == ("optimal", 0.0, least)
    assert values.min() <= certificate.dual_bound <= least
    assert certificate.unit == goal.unit
    check_prices(plan, asked)


def test_a_loss_out_of_reach_is_refused_with_the_least_within_reach() -> None:
    """Of 24 units of rank 20 fit: two cheap components give up two each, at 0.3 nats."""
    steep, flat = (6.0, 4.0, 2.0, 0.0), (0.6, 0.3, 0.1, 0.0)
    profile = tiny_profile([steep, flat, steep, flat, steep, steep])
    asked: dict[str, Any] = {"metric": "kv_bytes_per_token", "budgets": [f"block_params={6 * 20}"]}
    with pytest.raises(BudgetInfeasible) as caught:
        minimize(profile, **asked, max_loss_nats=0.5)
    said = {"metric": "predicted_loss_nats", "limit": 0.5, "minimum": 0.6}
    assert caught.value.extra["achievable"] == [{**said, "unit": "nats/token", "met": False}]
    assert caught.value.detail == (
        "predicted loss: 0.5 nats/token asked, 0.6 is the least within these budgets and constraints. "
        "Allow at least that."
    )
    plan = minimize(profile, **asked, max_loss_nats=0.6)
    assert [(row.ov, row.qk, row.mlp) for row in plan.ranks] == [(2, 4, 4), (4, 2, 4)]


@pytest.mark.parametrize("base", [1000, 5_000_000])
@pytest.mark.parametrize(
    ("most", "more", "proven"),
    [
        (0.3, 1, 1),
        # More than is asked by rounding alone: not taken, and not ruled out.
        (math.nextafter(0.3, 0.0), 2, 1),
        (0.3 * (1 - 1e-9), 2, 2),
        (0.1, 2, 2),
        (0.75, 0, 0),
        (0.0, 3, 3),
    ],
)
def test_rounding_neither_breaks_a_loss_nor_proves_a_bound(
    most: float, more: int, proven: int, base: int
) -> None:
    """QK of layer 0 alone loses, 0.7, 0.3, 0.1 and 0 nats, and takes ``base`` and 0 to 3 ns."""
    profile = tiny_profile([(0.7, 0.3, 0.1, 0.0), *[(0.0,) * 4] * 5])
    latency = times([(0, 1, 2, 3), (0,) * 4, (0,) * 4], base, base + 6)
    plan = minimize(profile, f"latency{AT}", max_loss_nats=most, latency=latency)
    certificate, used, bound = plan.certificate, plan.budgets[0].used, base + proven
    assert certificate is not None
    assert (used, certificate.bound, certificate.independent_bound) == (base + more, bound, bound)
    # A part in ten thousand is as good as none.
    assert certificate.status == ("optimal" if used == bound or base > 10_000 else "feasible")
    assert certificate.gap == (used - bound) / used


def check_prices(plan: Plan, asked: dict[str, Any]) -> None:
    """They are multipliers of the relaxation with the least value as a budget like the others."""
    goal = Budget("", parse_metric(asked["metric"]), absolute=plan.budgets[0].limit)
    others = parse_budgets(asked["budgets"]) if asked["budgets"] else []
    program = question(asked["profile"], [goal, *others], latency=asked["latency"])
    prices = [row.shadow_price or 0.0 for row in plan.budgets]
    rooms = [row.limit - row.constant for row in program.rows]
    best = relaxed(program.groups, program.rows)
    rounding = 1e-9 + 1e-9 * sum(price * room for price, room in zip(prices, rooms, strict=True))
    assert lagrangian(program.groups, program.rows, prices) == pytest.approx(best, rel=1e-6, abs=rounding)
    assert [row.binding for row in plan.budgets] == [price > 0 for price in prices]


@pytest.mark.parametrize("around", [False, True])
def test_a_model_of_many_ranks_cannot_do_with_one_unit_less(around: bool) -> None:
    """By the problem that it is the inverse of: at a limit below the least the loss cannot be kept, at the least it can."""
    rows = [{"layer": layer, "qk": 12, "ov": 12, "mlp": 96} for layer in range(2)] if around else None
    profile, metric = measured_profile(around=rows), "memory@batch=2,context=300"
    losses = sorted(
        plan_from_profile(profile, [f"params={share}"]).predicted.loss_nats for share in (0.5, 0.8)
    )
    for most in (losses[0], math.fsum(losses) / 2):
        plan = minimize(profile, metric, max_loss_nats=most, budgets=["params=0.9"])
        certificate, least = plan.certificate, plan.budgets[0].used
        assert certificate is not None
        assert (certificate.status, certificate.bound, certificate.gap) == ("optimal", least, 0.0)
        assert plan.predicted.loss_nats <= most
        for limit, keeps in ((least, True), (least - 1, False)):
            other = plan_from_profile(
                profile, [f"memory={limit}@batch=2,context=300", "params=0.9"]
            ).predicted.loss_nats
            assert (other <= most) == keeps


def test_without_time_the_certificate_says_how_far_the_least_may_be() -> None:
    profile = measured_profile()
    asked: dict[str, Any] = {"metric": "params", "max_loss_nats": 0.2, "budgets": ["kv_bytes_per_token=0.95"]}
    least = minimize(profile, **asked).budgets[0].used
    plan = minimize(profile, **asked, time_limit_s=0.0)
    certificate, used = plan.certificate, plan.budgets[0].used
    assert certificate is not None
    assert plan.predicted.loss_nats <= 0.2
    # The multipliers of some solves lead into the least's neighbourhood, and only then is the clock looked at.
    assert 0.98 * least <= certificate.dual_bound <= certificate.independent_bound <= certificate.bound
    assert certificate.bound <= least <= used
    assert certificate.gap == pytest.approx((used - certificate.bound) / used)
    assert certificate.gap > 1e-4
    assert certificate.status == "feasible"


def test_what_is_asked_beside_the_metric_is_kept() -> None:
    profile = quantized_profile()
    asked: dict[str, Any] = {"metric": "memory@batch=1,context=64", "max_loss_nats": 0.3}
    started = time.monotonic()
    plan = minimize(profile, **asked, created_by="somebody")
    took = time.monotonic() - started
    unrounded, eight = (minimize(profile, **asked, bits=bits) for bits in ([], [8]))
    used = [each.budgets[0].used for each in (plan, eight, unrounded)]
    assert used[0] < used[1] < used[2]
    assert [each.bits for each in (plan, eight, unrounded)] == [(8, 4), (8,), ()]
    assert (plan.created_by, eight.created_by) == ("somebody", "default")
    assert plan.allocation == "ilp"
    certificate = plan.certificate
    assert certificate is not None
    assert (certificate.solver, certificate.most_states) == (SOLVER, MOST_STATES)
    assert certificate.warnings == ()
    assert 0 < certificate.time_s <= took + 1e-4


def test_least_and_its_loss_go_together_and_with_mixed_ranks_alone() -> None:
    profile = small_profile()

    def ask(**options: Any) -> Plan:
        both = {"least": None, "max_loss_nats": None, **options}
        return plan_or_least(profile, ["block_params=0.9"], **both)

    least = ask(least="params", max_loss_nats=0.01, created_by="somebody")
    assert least.objective == "least params at a predicted loss of at most 0.01 nats/token"
    assert [row.metric for row in least.budgets] == ["params", "block_params"]
    assert least.created_by == "somebody"
    assert ask().digest == plan_from_profile(profile, ["block_params=0.9"]).digest
    uniform = ask(allocation="uniform", created_by="somebody")
    assert (uniform.allocation, uniform.created_by) == ("uniform", "somebody")
    for options, field, found, says in (
        ({"least": "params"}, "max_loss_nats", "nothing", "max_loss_nats: missing beside least; give least="),
        ({"max_loss_nats": 0.0}, "least", "nothing", "least: missing beside max_loss_nats; give least="),
        (
            {"least": "params", "max_loss_nats": 0.1, "allocation": "uniform"},
            "allocation",
            "uniform",
            "allocation: 'uniform' does not go with least; use ilp",
        ),
    ):
        with pytest.raises(InvalidInput) as caught:
            ask(**options)
        (refused,) = caught.value.fields
        assert (refused.field, refused.found) == (field, found)
        assert caught.value.detail.startswith(says)


def test_the_least_that_constraints_leave_may_be_more_than_the_dense_model() -> None:
    """In four bits an MLP of rank 126 is larger than one of 128, whose matrices can be packed."""
    profile, metric = small_profile(), "memory@batch=1,context=64,weights=int4packed"
    plan = minimize(
        profile, metric, max_loss_nats=1.0, constraints={"pin": ["*.mlp=126", "*.qk=16", "*.ov=16"]}
    )
    costs = CostModel(profile.model.geometry)
    (budget,) = plan.budgets
    assert budget.used == budget.limit == costs.total(parse_metric(metric), plan.chosen)
    assert budget.used > costs.dense(parse_metric(metric))
    assert plan.certificate is not None
    assert (plan.certificate.status, plan.certificate.bound) == ("optimal", budget.used)


@pytest.mark.parametrize("loss", [-1e-9, math.nan, math.inf, -math.inf])
def test_a_loss_is_a_number_from_0_on(loss: float) -> None:
    with pytest.raises(InvalidInput) as caught:
        minimize(small_profile(), "params", max_loss_nats=loss)
    (refused,) = caught.value.fields
    assert (refused.field, refused.found) == ("max_loss_nats", str(loss))
    assert refused.allowed == "a number of nats per token from 0 on"
