"""Frontiers over all plans of a small profile, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.frontier import frontier_csv, frontier_of, plan_at
from allocator.plan.model.ranks import Ranks
from tests.support.latency import table
from tests.support.profiles import (
    SMALL,
    measured_profile,
    quantized_profile,
    small_costs,
    small_profile,
    thinned_profile,
)
from tests.support.programs import all_ranks

PROFILE = small_profile()
THINNED = thinned_profile()
EVERY = [(loss, small_costs(ranks)) for ranks, loss in all_ranks(list(THINNED.curves))]
LOSSES = np.array([loss for loss, _ in EVERY])
COSTS = {name: np.array([costs[name] for _, costs in EVERY]) for name in EVERY[0][1]}


def test_every_point_is_the_best_of_all_plans_within_its_limits() -> None:
    metrics = ["block_params", "kv_bytes_per_token"]
    surface = frontier_of(THINNED, metrics, points=5, budgets=["params=0.9"])
    assert len(surface.points) == 25
    least, most = ([int(end(COSTS[name])) for name in metrics] for end in (np.min, np.max))
    grids = [[low + (high - low) * i // 4 for i in range(5)] for low, high in zip(least, most, strict=True)]
    assert [point.limits for point in surface.points] == [(a, b) for a in grids[0] for b in grids[1]]
    for point in surface.points:
        within = COSTS["params"] <= 99_000
        for name, limit, used in zip(metrics, point.limits, point.used, strict=True):
            within &= COSTS[name] <= limit
            assert used <= limit
        assert point.status == "optimal"
        assert point.loss_nats == pytest.approx(float(LOSSES[within].min()), rel=1e-4, abs=1e-9)
        assert 0 <= point.bound_nats <= point.loss_nats
        assert point.gap <= 1e-4 or point.loss_nats - point.bound_nats <= 1e-9
    document = surface.document
    assert document["schema"] == "rankalloc.frontier/1"
    assert document["model"] == {"reference": "local:small", "weights_sha256": "a" * 64}
    assert document["profile_key"] == "small"
    assert document["metrics"] == [
        {"metric": "block_params", "unit": "parameters"},
        {"metric": "kv_bytes_per_token", "unit": "bytes"},
    ]
    assert document["budgets"] == [
        {"metric": "params", "limit": 99_000, "unit": "parameters", "text": "params=0.9"}
    ]
    assert document["constraints"] == {}
    assert document["dense"] == [73_728, 256]
    assert "bits" not in document


def test_limits_are_evenly_spaced_and_each_once() -> None:
    pins = {"pin": ["*.mlp=dense", "*.qk=dense", "0.ov=dense"]}
    curve = frontier_of(PROFILE, ["kv_bytes_per_token"], constraints=pins)
    # One OV of 1 to 16 numbers for two heads, beside 12 of 16: every byte from 196 to 256.
    assert [point.limits for point in curve.points] == [(limit,) for limit in range(196, 257)]
    assert curve.document["constraints"] == {"pin": sorted(pins["pin"])}
    plan = plan_at(PROFILE, curve, 7, created_by="ann")
    assert plan.created_by == "ann"
    assert plan.document["constraints"]["pin"] == sorted(pins["pin"])
    assert plan_at(PROFILE, curve, 7).created_by == "default"
    assert (plan.budgets[0].text, plan.ranks[0].ov) == ("kv_bytes_per_token=203", 16)
    assert frontier_of(PROFILE, ["params"], points=3, between=[(90_000, 90_000)]).points[0].limits == (
        90_000,
    )


def test_two_hundred_points_of_one_metric_and_twenty_of_each_of_two() -> None:
    # MLPs alone are left free: the cache has one size, and parameters have twenty.
    pins = {"pin": ["*.ov=dense", "*.qk=dense", "0.mlp=dense"]}
    surface = frontier_of(PROFILE, ["block_params", "kv_bytes_per_token"], constraints=pins)
    assert len({point.limits for point in surface.points}) == len(surface.points) == 20
    for metrics, points, allowed in (
        (["params"], 201, "a number from 2 to 200"),
        (["params"], 1, "a number from 2 to 200"),
        (["params", "block_params"], 21, "a number from 2 to 20 for each of two metrics"),
    ):
        with pytest.raises(InvalidInput) as caught:
            frontier_of(PROFILE, metrics, points=points)
        (error,) = caught.value.fields
        assert (error.field, error.found, error.allowed) == ("points", str(points), allowed)
    assert len(frontier_of(PROFILE, ["params"], points=2).points) == 2


@pytest.mark.parametrize(
    ("metrics", "budgets", "found", "said"),
    [
        (
            [],
            [],
            "",
            "metric: nothing is not one metric or two different ones, without a budget of their own",
        ),
        (
            ["params", "params"],
            [],
            "params, params",
            "metric: params, params is not one metric or two different ones, without a budget of their own",
        ),
        (
            ["params", "block_params", "kv_bytes_per_token"],
            [],
            "params, block_params, kv_bytes_per_token",
            "metric: params, block_params, kv_bytes_per_token is not one metric or two",
        ),
        (["params", "block_params"], ["params=0.5"], "params, block_params", "without a budget of their own"),
    ],
)
def test_metrics_of_which_there_is_no_frontier(
    metrics: list[str], budgets: list[str], found: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        frontier_of(PROFILE, metrics, budgets=budgets, points=3)
    assert said in caught.value.detail
    assert [(error.field, error.found) for error in caught.value.fields] == [("metric", found)]


def test_points_that_there_are_not_are_refused() -> None:
    curve = frontier_of(PROFILE, ["params"], points=3)
    for index in (-1, 3):
        with pytest.raises(InvalidInput, match="a point from 0 to 2") as caught:
            plan_at(PROFILE, curve, index)
        assert [(error.field, error.found) for error in caught.value.fields] == [("point", str(index))]
    assert plan_at(PROFILE, curve, 2).chosen == Ranks.dense(SMALL)


@pytest.mark.parametrize("measured", [0.01, 1.0])
def test_a_frontier_around_a_plan_starts_at_what_that_one_measured(measured: float) -> None:
    """Less than its components lose alone, and more."""
    around = [{"layer": layer, "qk": 8, "ov": 8, "mlp": 64} for layer in range(2)]
    profile = measured_profile(around=around)
    assert profile.around is not None
    profile = profile.replaced(around=profile.around.replaced(loss_nats=measured))
    there = small_costs(Ranks((8, 8), (8, 8), (64, 64)))["block_params"]
    curve = frontier_of(profile, ["block_params"], points=5, between=[(there, 73_728)])
    assert curve.points[0].loss_nats <= measured * (1 + 1e-9)
    for index, point in enumerate(curve.points):
        plan = plan_at(profile, curve, index)
        assert point.loss_nats == pytest.approx(plan.predicted.loss_nats, rel=1e-3, abs=1e-9)
        assert 0 <= point.bound_nats <= point.loss_nats
        assert point.loss_nats - point.bound_nats <= max(1e-3 * point.loss_nats, 1e-8)


def test_a_frontier_of_time_is_counted_in_a_table() -> None:
    metric = "latency@batch=1,context=64,phase=decode"
    curve = frontier_of(PROFILE, [metric], points=4, latency=table())
    assert curve.document["metrics"] == [{"metric": metric, "unit": "ns"}]
    assert curve.points[0].limits == (100_000,)
    plan = plan_at(PROFILE, curve, 1, latency=table())
    assert (plan.budgets[0].used,) == curve.points[1].used
    with pytest.raises(InvalidInput):
        plan_at(PROFILE, curve, 1)


def test_a_frontier_without_fewer_bits_says_so_and_one_with_them_which() -> None:
    profile = quantized_profile()
    for bits, said in ((None, [8, 4]), ([8], [8]), ([], [])):
        curve = frontier_of(profile, ["memory@context=64"], points=2, bits=bits)
        assert curve.document["bits"] == said
        assert plan_at(profile, curve, 0).document.get("bits", []) == said
        assert plan_at(profile, curve, 0).budgets[0].used == curve.points[0].limits[0]


def test_points_without_time_keep_their_limits_and_say_how_far_off_they_may_be() -> None:
    profile = measured_profile(SMALL.replaced(layers=12, total_params=600_000))
    metrics, ranges = ["block_params", "kv_bytes_per_token"], [(305_000, 315_000), (906, 937)]
    budgets = ["flops_per_token=0.7"]
    surface = frontier_of(profile, metrics, budgets=budgets, points=3, between=ranges, time_limit_s=0.0)
    assert [point.limits for point in surface.points][::4] == [(305_000, 906), (310_000, 921), (315_000, 937)]
    for point in surface.points:
        assert all(used <= limit for used, limit in zip(point.used, point.limits, strict=True))
        open_nats = point.loss_nats - point.bound_nats
        assert point.gap == pytest.approx(open_nats / point.loss_nats, abs=1e-12)
        assert (point.status == "optimal") == (open_nats <= max(1e-4 * point.loss_nats, 1e-9))
    losses = np.array([point.loss_nats for point in surface.points]).reshape(3, 3)
    assert (np.diff(losses, axis=0) <= 0).all()
    assert (np.diff(losses, axis=1) <= 0).all()


def test_the_lines_of_a_frontier_s_csv() -> None:
    surface = frontier_of(THINNED, ["kv_bytes_per_token", "params"], points=2)
    lines = frontier_csv(surface).split("\n")
    assert lines[0] == (
        "limit kv_bytes_per_token,limit params,used kv_bytes_per_token,used params,loss_nats,bound_nats,gap,status"
    )
    assert len(lines) == 1 + 4 + 1
    for line, point in zip(lines[1:], surface.points, strict=False):
        expected = [*point.limits, *point.used, point.loss_nats, point.bound_nats, point.gap, point.status]
        assert line == ",".join(map(str, expected))


def test_other_budgets_and_ranges_that_no_ranks_reach_are_refused() -> None:
    with pytest.raises(BudgetInfeasible):
        frontier_of(PROFILE, ["params"], budgets=["kv_bytes_per_token=0.01"], points=3)
    with pytest.raises(BudgetInfeasible):
        frontier_of(PROFILE, ["params"], between=[(2, 90_000)], points=3)
