"""Ranks and weight bits in one program: options, what they cost and lose, and plans against brute force over all of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.curves.measured import build_curve, build_quantized
from allocator.plan.differences import diff_plans
from allocator.plan.documents.curve import Curve, Quantized
from allocator.plan.documents.profile import Profile
from allocator.plan.explain import explain
from allocator.plan.files.plan_file import read_plan
from allocator.plan.frontier import frontier_of, plan_at
from allocator.plan.inverse import minimize
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import admissible_ranks, checked_bits
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile, question_of
from allocator.plan.program.options import options_of, program_of
from allocator.plan.program.problem import predicted_loss, question
from tests.support.plans import plan_file, ranks_of
from tests.support.profiles import LARGE, SMALL, point_of, quantized_profile, small_profile
from tests.support.programs import check_solved, least_loss_of_options

BUDGETS = ["memory=0.4@context=512", "kv_bytes_per_token=0.7"]


def test_bits_are_admitted_where_every_matrix_can_be_held_in_them() -> None:
    # 4 and 2 heads over 64 dimensions: a key projection of 16 outputs needs rank 8, an o_proj of 32 inputs too.
    assert admissible_ranks(SMALL, "qk", 8) == SMALL.candidate_ranks("qk")
    assert admissible_ranks(SMALL, "qk", 4) == [8, 16]
    assert admissible_ranks(SMALL, "ov", 4) == [8, 16]
    assert admissible_ranks(SMALL, "mlp", 4) == [32, 64, 96, 128]
    odd = SMALL.replaced(hidden=60)
    assert admissible_ranks(odd, "qk", 4) == admissible_ranks(odd, "mlp", 4) == []
    experts = SMALL.replaced(experts=4, active_experts=2)
    assert admissible_ranks(experts, "mlp", 8) == admissible_ranks(experts, "mlp", 4) == []
    assert admissible_ranks(SMALL.replaced(fixed=("qk",)), "qk", 8) == []


def test_a_component_with_bits_overrides_what_memory_says_of_weights() -> None:
    costs = CostModel(SMALL)
    own, eight, packed = (
        Metric("memory", context=1, weights=weights) for weights in (None, "int8", "int4packed")
    )
    for component in COMPONENTS:
        for rank in admissible_ranks(SMALL, component, 4):
            for metric in (own, eight, packed):
                found = [costs.cost_of(metric, component, 0, rank, bits) for bits in (8, 4)]
                assert found == [costs.cost_of(m, component, 0, rank) for m in (eight, packed)]
            for name in ("params", "block_params", "kv_bytes_per_token", "flops_per_token"):
                assert len({costs.cost_of(Metric(name), component, 0, rank, b) for b in (None, 8, 4)}) == 1


def test_ranks_with_bits_come_back_from_their_rows() -> None:
    ranks = Ranks((8, 16), (4, 16), (64, 128)).with_bits([(8, None, 4), (None, None, None)])
    assert ranks.layers()[0]["bits"] == {"qk": 8, "mlp": 4}
    assert "bits" not in ranks.layers()[1]
    assert ranks_of(ranks.layers()) == ranks
    plain = Ranks((8, 16), (4, 16), (64, 128))
    assert plain.with_bits([(None,) * 3] * 2) == plain
    assert hash(plain) != hash(ranks)


def curve_at(losses: dict[int, float]) -> Curve:
    ranks = [8, 16, 24, 32]
    points = [point_of(rank, loss, 1e-4) for rank, loss in losses.items()]
    return build_curve(0, "qk", ranks, [4.0, 2.0, 1.0, 0.0], points)


def test_what_rounding_adds_is_interpolated_between_measured_ranks() -> None:
    curve = curve_at({8: 0.4, 16: 0.2, 24: 0.1})
    points = [point_of(8, 0.46, 1e-4), point_of(32, 0.02, 1e-4)]
    fewer = build_quantized(curve, 4, [8, 16, 24, 32], points)
    added = [0.06, 0.06 - 0.04 / 3, 0.06 - 0.08 / 3, 0.02]
    assert fewer.loss_nats == pytest.approx([0.46, 0.2 + added[1], 0.1 + added[2], 0.02])
    assert fewer.repairs == ()
    held = curve.replaced(quantized={"4": fewer})
    assert held.loss_at(32, 4) == 0.02
    assert held.loss_at(32) == 0.0
    assert Curve.read(held.document) == held
    assert "quantized" not in curve.document
    with pytest.raises(ValueError, match="not measured in 8 bits"):
        held.loss_at(32, 8)
    with pytest.raises(ValueError, match="ranks 8 and 32 must be measured in 4 bits"):
        build_quantized(curve, 4, [8, 16, 24, 32], points[:1])


@given(st.lists(st.floats(-0.01, 1.0), min_size=3, max_size=3), st.floats(1e-6, 0.1))
@example([1.0, 1.0000000000000002e-06, 1e-06], 1e-3)
@settings(deadline=None)
def test_losses_in_fewer_bits_never_rise_with_the_rank_and_repairs_are_recorded(
    losses: list[float], spread: float
) -> None:
    curve = curve_at({8: 0.4, 16: 0.2, 24: 0.1})
    points = [point_of(r, loss, spread) for r, loss in zip((8, 16, 32), losses, strict=True)]
    fewer = build_quantized(curve, 8, [8, 16, 24, 32], points)
    found = list(fewer.loss_nats)
    assert found == sorted(found, reverse=True)
    assert min(found) >= 0
    ordered = losses == sorted(losses, reverse=True) and min(losses) >= 0
    assert fewer.repairs or ordered
    if ordered and len(set(losses)) == 3:
        assert not fewer.repairs
        assert [fewer.loss_nats[n] for n in (0, 1, 3)] == losses


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """Two layers of few ranks, each with losses of its own in every bits: any order that rounding could give."""
    profile = small_profile()
    keep = {"qk": [2, 16], "ov": [1, 16], "mlp": [2, 64, 128]}
    curves = []
    for curve in profile.curves:
        ranks = tuple(keep[curve.component])
        own = [draw(st.floats(0, 1)) for _ in ranks[1:]]
        losses = tuple(math.fsum(own[n:]) for n in range(len(ranks)))
        fewer = {}
        for bits in (8, 4):
            admitted = tuple(r for r in admissible_ranks(SMALL, curve.component, bits) if r in ranks)
            added = draw(st.floats(0, 0.5))
            rounded = tuple(losses[ranks.index(rank)] + added for rank in admitted)
            if admitted:
                fewer[str(bits)] = Quantized(ranks=admitted, loss_nats=rounded, measured=())
        changed = {"ranks": ranks, "analytic": (0.0,) * len(ranks), "loss_nats": losses, "measured": ()}
        curves.append(curve.replaced(**changed, quantized=fewer))
    return profile.replaced(bits=(8, 4), curves=tuple(curves))


@given(profiles(), st.floats(0.02, 1), st.floats(0.1, 1), st.booleans(), st.sampled_from([None, 9, 65]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_plans_are_the_best_of_all_ranks_and_bits(
    profile: Profile, memory: float, cache: float, tied: bool, least: int | None
) -> None:
    budgets = parse_budgets([f"memory={memory:.3f}@context=64,batch=3", f"kv_bytes_per_token={cache:.3f}"])
    constraints: dict[str, list[str]] = {"tie": ["mlp"]} if tied else {}
    if least is not None:  # takes the ranks away at which some bits are admitted
        constraints["min_rank"] = [f"mlp={least}"]
    curves = list(profile.curves)
    costs = CostModel(SMALL)
    options = [
        [option for option in c.options((8, 4)) if c.component != "mlp" or option[0] >= (least or 0)]
        for c in curves
    ]
    # The two MLPs are the third and the sixth of the curves.
    same = np.eye(len(options[2]), dtype=bool)[None, None, :, None, None, :] if tied else True
    best = least_loss_of_options(costs, curves, options, budgets, lambda fitting: fitting & same)
    check_solved(lambda: question(profile, budgets, constraints), best)


@pytest.mark.parametrize("geometry", [SMALL, LARGE])
def test_the_first_option_is_the_least_for_every_budget(geometry: Geometry) -> None:
    profile = quantized_profile(geometry)
    budgets = parse_budgets(
        ["params=0.5", "kv_bytes_per_token=0.5", "flops_per_token=0.9", "memory=0.9@context=64"]
        + [f"memory=0.9@context=64,weights={kind}" for kind in ("int8", "int4", "int4packed")]
    )
    for constraints in (None, {"min_rank": ["qk=3", "mlp=0.3"]}, {"align": ["mlp=3"]}, {"tie": ["ov"]}):
        asked = question(profile, budgets, constraints)
        for group, options in zip(asked.groups, asked.options, strict=True):
            assert options[0][0][0] == min(option[0][0] for option in options)
            for costs in group.costs:
                assert min(costs) == costs[0]


def test_a_plan_with_bits_says_so_and_keeps_its_budgets() -> None:
    profile = quantized_profile()
    plan = plan_from_profile(profile, BUDGETS)
    ranks = plan.chosen
    assert plan.bits == (8, 4)
    assert ranks.bits
    costs = CostModel(SMALL)
    for row, budget in zip(plan.budgets, parse_budgets(BUDGETS), strict=True):
        assert row.used == costs.total(budget.metric, ranks) <= row.limit
    curves = list(profile.curves)
    assert plan.predicted.loss_nats == predicted_loss(curves, ranks)
    assert question_of(plan, profile).choice(ranks)
    assert plan.digest == plan.own_digest
    moved = tuple(row.replaced(bits={}) for row in plan.ranks)
    assert plan.replaced(ranks=moved).own_digest != plan.digest
    # What one ratio and one number of bits make of the same budgets, and ranks alone.
    for name in ("uniform_bits", "uniform"):
        if entry := plan.baseline.get(name):
            at = entry.chosen
            assert entry.predicted_loss_nats >= plan.predicted.loss_nats
            assert all(costs.total(b.metric, at) <= b.limit(costs) for b in parse_budgets(BUDGETS))
    assert len({bits for row in plan.baseline["uniform_bits"].ranks for bits in row.bits.values()}) == 1


def test_a_profile_with_bits_may_be_planned_without_them() -> None:
    """The same plan as from a profile that measured none, but for the profile's name."""
    both = quantized_profile()
    plain = both.document
    plain["curves"] = [{k: v for k, v in c.items() if k != "quantized"} for c in plain["curves"]]
    del plain["bits"]
    expected, found = (
        plan_from_profile(Profile.read(plain), ["params=0.8"]),
        plan_from_profile(both, ["params=0.8"], bits=()),
    )
    assert found.replaced(certificate=None) == expected.replaced(certificate=None)
    assert "bits" not in found.document
    only = plan_from_profile(both, BUDGETS, bits=[8])
    assert only.bits == (8,)
    assert {b for row in only.ranks for b in row.bits.values()} <= {8}
    with pytest.raises(InvalidInput, match="has measured none, not 8"):
        plan_from_profile(Profile.read(plain), BUDGETS, bits=[8])


def test_bits_reach_budgets_that_ranks_alone_do_not() -> None:
    profile, text = quantized_profile(), ["memory=0.5@context=1"]
    with pytest.raises(BudgetInfeasible):
        plan_from_profile(profile, text, bits=(), constraints={"min_rank": ["0.5"]})
    plan = plan_from_profile(profile, text, constraints={"min_rank": ["0.5"]})
    assert "uniform" not in plan.baseline
    uniform = plan_from_profile(
        profile, ["memory=0.55@context=1"], allocation="uniform", constraints={"min_rank": ["0.5"]}
    )
    assert all(row.bits for row in uniform.ranks)
    assert uniform.certificate is None


def test_frontier_and_inverse_use_bits() -> None:
    profile = quantized_profile()
    frontier = frontier_of(profile, ["memory@context=64"], points=12)
    ranks_alone = frontier_of(profile.replaced(bits=()), ["memory@context=64"], points=12)
    assert frontier.points[0].limits[0] < ranks_alone.points[0].limits[0]
    losses = [point.loss_nats for point in frontier.points]
    assert losses == sorted(losses, reverse=True)
    point = frontier.points[6]
    assert plan_at(profile, frontier, 6).predicted.loss_nats == pytest.approx(point.loss_nats, rel=2e-4)
    least = minimize(profile, "memory@context=64", max_loss_nats=point.loss_nats)
    assert least.certificate.status == "optimal"
    assert CostModel(SMALL).total(Metric("memory", context=64), least.chosen) <= point.used[0]


def test_explanations_and_differences_name_bits() -> None:
    profile = quantized_profile()
    a, b = plan_from_profile(profile, BUDGETS), plan_from_profile(profile, ["memory=0.8@context=512"])
    rows = {(row.layer, row.component): row for row in explain(a, profile).components}
    for row in a.ranks:
        for component in COMPONENTS:
            bits = row.bits.get(component)
            told = rows[row.layer, component]
            assert told.bits == bits
            assert (f"in {bits} bits" in told.why) == (bits is not None)
    found = diff_plans(a, b, profile)
    changed = [each for each in found.changes if each.from_bits != each.to_bits]
    assert changed
    for each in changed:
        assert "B of weights" in each.text
        assert f"{each.from_}{'' if each.from_bits is None else ' @' + str(each.from_bits)} ->" in each.text
    costs = CostModel(SMALL)
    whole = [
        costs.total(Metric("memory", context=1), each.chosen) - each.costs["kv_bytes_per_token"]
        for each in (a, b)
    ]
    parts = [each.weight_bytes for each in found.changes if each.weight_bytes is not None]
    assert len(parts) == len(found.changes)
    assert sum(parts) == whole[1] - whole[0]


def test_a_plan_file_may_hold_bits_that_the_geometry_admits() -> None:
    plan = plan_from_profile(quantized_profile(), BUDGETS)
    assert read_plan(json.dumps(plan.document).encode()) == plan
    for bits in ({"qk": 3}, {"qk": 4}, {"head": 8}, {"qk": "8"}, {"qk": True}):
        first, *others = plan.chosen.layers()
        rows = [{**first, "qk": 2, "bits": bits}, *others]
        with pytest.raises(InvalidInput, match=r"layer 0 qk has rank 2 in 4 bits|ranks\[0\].bits.(qk|head)"):
            read_plan(plan_file({**plan.document, "ranks": rows}))
    with pytest.raises(InvalidInput, match=r"bits\[0\]: found \[8\]; Input should be 8 or 4"):
        read_plan(plan_file({**plan.document, "bits": [[8]]}))


def test_options_without_bits_are_the_ranks() -> None:
    curves = list(small_profile().curves)
    asked = question(small_profile(), parse_budgets(["params=0.8"]))
    assert asked.options == [[((rank, None),) for rank in curve.ranks] for curve in curves]
    options = options_of(curves, asked.costs, asked.limits, ())
    assert program_of(curves, asked.costs, asked.budgets, asked.limits, options) == (asked.groups, asked.rows)


def test_bits_are_put_in_order() -> None:
    assert checked_bits([4, 8, 4]) == [8, 4]
    with pytest.raises(InvalidInput, match="bits: 16 is not 8, 4 or both"):
        checked_bits([16])
