"""Latency budgets: counted in a measured table, kept by every plan, refused where the table says nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from allocator.base.errors import BudgetInfeasible, BudgetSyntax, InvalidInput
from allocator.plan.ask.budgets import parse_budget
from allocator.plan.documents.plan import Plan
from allocator.plan.explain import explain
from allocator.plan.files.latency_file import import_table
from allocator.plan.frontier import frontier_of, plan_at
from allocator.plan.inverse import minimize
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.latency import read_table
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile, question_of
from allocator.plan.prices import price_per
from tests.support.latency import table, table_document
from tests.support.profiles import SMALL, small_profile, thinned_profile
from tests.support.programs import least_loss, within

AT = "@batch=1,context=64,phase=decode"


def step_of(component: str, rank: int) -> int:
    """The table's rule by hand: the next measured rank, from the smallest one on."""
    measured = sorted({*SMALL.candidate_ranks(component)[::3], SMALL.full_rank(component)})  # type: ignore[arg-type]
    above = next(each for each in measured if each >= rank)
    return (above - measured[0]) * (10_000 if component == "mlp" else 1000)


def time_of(ranks: Ranks) -> int:
    return 100_000 + sum(step_of(c, rank) for c in COMPONENTS for rank in ranks.of(c))


def fast_and(rest: Callable[[Ranks], bool], limit_ns: int) -> Callable[[Ranks], bool]:
    return lambda ranks: time_of(ranks) <= limit_ns and rest(ranks)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("latency=12ms", 12 * 10**6), ("latency=1.5us", 1500), ("latency=2s", 2 * 10**9), ("latency=900", 900)],
)
def test_absolute_times_have_units(text: str, limit: int) -> None:
    costs = CostModel(SMALL, table())
    assert parse_budget(text + AT).limit(costs) == limit
    half = parse_budget("latency=0.5" + AT)
    assert half.limit(costs) == costs.dense(half.metric) // 2
    assert half.metric.label == f"latency{AT}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency=12GiB" + AT, "fraction in"),
        ("memory=12ms@context=3", "fraction in"),
        ("latency=0.5", "needs a context length"),
        ("latency=0.5@context=64", "latency needs a phase"),
        ("latency=0.5@context=64,phase=decode,weights=int8", "options of latency are batch, context, phase"),
    ],
)
def test_what_is_no_latency_budget_is_refused(text: str, says: str) -> None:
    with pytest.raises(BudgetSyntax, match=says):
        parse_budget(text)


@pytest.mark.parametrize("more", [[], ["block_params=0.8"], ["kv_bytes_per_token=0.7", "params=0.95"]])
def test_the_plan_is_the_best_of_all_that_are_fast_enough(more: list[str]) -> None:
    profile = thinned_profile()
    curves = list(profile.curves)
    for share in ("0.3", "0.6", "0.85"):
        plan = plan_from_profile(profile, [f"latency={share}{AT}", *more], latency=table())
        limits = [budget.limit for budget in plan.budgets]
        costs = CostModel(SMALL, table())
        best = least_loss(curves, fast_and(within(costs, [parse_budget(text) for text in more]), limits[0]))
        assert plan.predicted.loss_nats == pytest.approx(best, rel=2e-4)
        ranks = plan.chosen
        assert plan.budgets[0].used == time_of(ranks) <= limits[0]
        for baseline in plan.baseline.values():
            assert time_of(baseline.chosen) <= limits[0]


def test_a_plan_names_its_table_and_answers_without_it() -> None:
    profile = small_profile()
    plan = plan_from_profile(profile, [f"latency=0.6{AT}"], latency=table())
    assert plan.latency_table.digest == table().digest
    assert [each.phase for each in plan.latency_table.timings] == ["decode"]
    stored = Plan.stored(json.loads(json.dumps(plan.document)))
    assert stored.latency_table == plan.latency_table
    assert question_of(stored, profile).rows[0].limit == plan.budgets[0].limit
    assert len(explain(stored, profile).components) == 6
    other = plan_from_profile(profile, [f"latency={plan.budgets[0].limit}{AT}"], latency=table())
    assert (other.digest, other.ranks) == (plan.digest, plan.ranks)
    changed = table_document()
    changed["machine"]["name"] = "another CPU"
    elsewhere = plan_from_profile(profile, [f"latency=0.6{AT}"], latency=read_table(changed))
    assert elsewhere.ranks == plan.ranks
    assert elsewhere.digest != plan.digest
    without = plan_from_profile(profile, ["params=0.95"], latency=table())
    assert "latency_table" not in without.document
    assert without.digest == plan_from_profile(profile, ["params=0.95"]).digest


def test_times_too_short_for_any_ranks_say_the_least() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        plan_from_profile(small_profile(), [f"latency=90us{AT}"], latency=table())
    assert caught.value.extra["achievable"][0]["minimum"] == 100_000


def test_frontiers_and_the_inverse_problem_take_times_too() -> None:
    profile = small_profile()
    frontier = frontier_of(profile, [f"latency{AT}"], points=6, latency=table())
    losses = [point.loss_nats for point in frontier.points]
    assert losses == sorted(losses, reverse=True)
    assert frontier.dense == (table().timing(1, 64, "decode").dense_ns,)
    plan = plan_at(profile, frontier, 2, latency=table())
    assert plan.predicted.loss_nats == pytest.approx(losses[2], rel=2e-4)
    least = minimize(
        profile, "params", max_loss_nats=losses[2], budgets=[f"latency=0.9{AT}"], latency=table()
    )
    assert least.budgets[0].used <= least.budgets[0].limit
    fastest = minimize(profile, f"latency{AT}", max_loss_nats=losses[2], latency=table())
    assert fastest.latency_table.digest == table().digest
    ranks = fastest.chosen
    assert time_of(ranks) <= frontier.points[2].limits[0]


def test_a_time_needs_a_table_of_the_same_shape_that_has_it() -> None:
    profile = small_profile()
    with pytest.raises(InvalidInput, match="rankalloc latency measured"):
        plan_from_profile(profile, [f"latency=0.6{AT}"])
    with pytest.raises(InvalidInput, match="was not measured at batch=2,context=64,phase=decode"):
        plan_from_profile(profile, ["latency=0.6@batch=2,context=64,phase=decode"], latency=table())
    other = Geometry(**{**vars(SMALL), "hidden": 128})
    with pytest.raises(InvalidInput, match="hidden is 128 there and 64 here"):
        plan_from_profile(profile, [f"latency=0.6{AT}"], latency=table(other))


def _damaged(**changes: Any) -> bytes:
    document = copy.deepcopy(table_document())
    for path, value in changes.items():
        *parents, last = path.split("__")
        spot: Any = document
        for name in parents:
            spot = spot[int(name) if name.isdecimal() else name]
        spot[int(last) if last.isdecimal() else last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "no JSON"),
        (b"[1]", "a JSON object"),
        (b'{"schema": NaN}', "no JSON"),
        (b" " * (257 << 10), "at most 262,144 bytes"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "levels"),
        (_damaged(schema="rankalloc.latency/2"), "schema"),
        (_damaged(extra=1), "extra"),
        (_damaged(digest="0" * 64), "the hash of the rest"),
        (_damaged(timings__0__constant_ns=-1), "timings.0.constant_ns"),
        (_damaged(timings__0__constant_ns=1.5), "timings.0.constant_ns"),
        (_damaged(timings__0__dense_ns=2 * 10**15), "timings.0.dense_ns"),
        (_damaged(timings__0__phase="training"), "timings.0.phase"),
        (_damaged(timings__1__phase="decode"), "each batch, context and phase once"),
        (_damaged(timings__0__parts__qk__1__ns=10**9), "times that do not fall"),
        (_damaged(timings__0__parts__qk__1__rank=10**6), "ranks that ascend"),
        (_damaged(geometry__head_dim=32), "the full rank, 32, last"),
        (_damaged(geometry__layers="two"), "geometry.layers"),
        (_damaged(machine__hostname="here"), "machine.hostname"),
    ],
    ids=range(18),
)
def test_a_file_from_anybody_is_checked(data: bytes, says: str) -> None:
    assert import_table(_damaged()).digest == table().digest
    with pytest.raises(InvalidInput, match=says):
        import_table(data)


def test_prices_of_time_are_told_in_times() -> None:
    metric = parse_budget("latency=0.5" + AT).metric
    assert price_per(metric, 4e-9, 12_000_000) == "0.0040 nats per 1 ms of a pass"
    assert price_per(metric, 4e-9, 250_000) == "4.0e-05 nats per 10 us of a pass"
