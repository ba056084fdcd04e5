"""What a stored profile answers: compared with the plain definition on profiles made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import parse_metric
from allocator.plan.documents.curve import Curve, HeldOut
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.metric import Metric
from allocator.plan.planning import plan_from_profile
from allocator.plan.queries import (
    hurts_least,
    interpolation_errors,
    most_sensitive,
    removals,
    sensitivity,
    whole_model,
)
from tests.support.profiles import SMALL, measured_profile, small_profile


def curve_of(profile: Profile, layer: int, component: str) -> Curve:
    (found,) = [c for c in profile.curves if (c.layer, c.component) == (layer, component)]
    return found


def test_a_removal_is_the_least_that_removes_the_fraction_of_the_component_s_own_rank() -> None:
    profile = small_profile()
    found, out_of_reach = removals(profile, remove=0.1)
    assert out_of_reach == []
    assert [(each.layer, each.component) for each in found] == [
        (layer, component) for layer in (0, 1) for component in ("qk", "ov", "mlp")
    ]
    # head_dim 16 in pairs: 14 is the largest rank of at most 14.4; one by one as well; MLP 128 in twos: 114 <= 115.2
    assert [(each.from_rank, each.rank) for each in found[:3]] == [(16, 14), (16, 14), (128, 114)]
    for each in found:
        # 64 hidden x (4 + 2 heads) for each of 2 dimensions, 3 x 64 for each of 14 neurons.
        saved = 2688 if each.component == "mlp" else 768
        assert each.saved == saved
        # As `small_profile` has it, where it is measured and where it is not.
        loss = 0.3 * (each.layer + 2) ** (-12 * each.rank / each.from_rank)
        assert each.loss_nats == pytest.approx(loss, rel=1e-12)
        assert each.loss_per_unit == pytest.approx(loss / saved, rel=1e-12)


def test_a_tenth_is_a_tenth_and_not_its_nearest_binary_number() -> None:
    geometry = SMALL.replaced(head_dim=10, qk_step=1)
    found, _ = removals(measured_profile(geometry), remove=0.1)
    assert {each.rank for each in found if each.component != "mlp"} == {9}
    found, _ = removals(measured_profile(geometry), remove=0.3)
    assert {each.rank for each in found if each.component != "mlp"} == {7}


def test_both_orders() -> None:
    found, _ = removals(small_profile(), remove=0.5)
    losses = [each.loss_nats for each in most_sensitive(found)]
    assert losses == sorted(losses, reverse=True)
    # Losses fall faster in the second layer: the first one's are the larger.
    assert {each.layer for each in most_sensitive(found)[:3]} == {0}
    assert {each.layer for each in hurts_least(found)[:3]} == {1}
    by_kv, _ = removals(small_profile(), remove=0.5, metric="kv_bytes_per_token")
    assert {each.component for each in hurts_least(by_kv)} == {"qk", "ov"}, "an MLP saves no cache"
    assert [each.loss_per_unit for each in by_kv if each.component == "mlp"] == [None, None]


def test_the_whole_model_s_answer_is_the_plan_for_that_budget() -> None:
    profile = measured_profile()
    answer = whole_model(profile, remove=0.1)
    assert answer is not None
    plan = plan_from_profile(profile, ["block_params=0.9"])
    assert answer.digest == plan.digest
    assert answer.loss_nats == plan.predicted.loss_nats
    assert answer.after <= 0.9 * answer.before
    assert whole_model(profile, remove=0.99) is None, "no ranks are so small"
    memory = whole_model(profile, remove=0.2, metric="memory@batch=2,context=100")
    assert memory is not None
    assert memory.budget.endswith("@batch=2,context=100")


def test_a_profile_around_a_plan_counts_from_the_plan_s_ranks() -> None:
    start = plan_from_profile(measured_profile(), ["block_params=0.7"])
    around = [{name: getattr(row, name) for name in ("layer", "qk", "ov", "mlp")} for row in start.ranks]
    profile = measured_profile(around=around)
    found, _ = removals(profile, remove=0.2)
    for each in found:
        curve, before = curve_of(profile, each.layer, each.component), around[each.layer][each.component]
        assert each.from_rank == before
        assert each.rank <= 0.8 * before
        assert each.loss_nats == pytest.approx(curve.loss_at(each.rank) - curve.loss_at(before), rel=1e-12)
    answer = sensitivity(profile, remove=0.1, limit=2)
    assert answer.around == "e" * 64
    assert len(answer.most_sensitive) == len(answer.hurts_least) == 2
    assert answer.whole_model is not None
    assert answer.whole_model.before == start.costs["block_params"]
    assert answer.whole_model.after <= 0.9 * start.costs["block_params"]


def test_fixed_components_are_left_out_and_what_cannot_shrink_so_far_is_named() -> None:
    fixed = measured_profile(SMALL.replaced(fixed=("qk",)))
    found, out_of_reach = removals(fixed, remove=0.1)
    assert {each.component for each in found} == {"ov", "mlp"}
    assert out_of_reach == []
    found, out_of_reach = removals(small_profile(), remove=0.9)
    assert {each.component for each in found} == {"ov", "mlp"}, "QK of 16 in pairs cannot go to 1.6"
    assert [(row.layer, row.component, row.from_rank) for row in out_of_reach] == [
        (0, "qk", 16),
        (1, "qk", 16),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"remove": 0.0},
        {"remove": 1.0},
        {"remove": -0.1},
        {"remove": math.nan},
        {"metric": "speed"},
        {"metric": ""},
        {"metric": "memory"},
        {"metric": "params@batch=2"},
        {"metric": "params=0.5"},
        {"metric": "x" * 5000},
    ],
)
def test_a_wrong_question_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        sensitivity(small_profile(), **wrong)
    assert [field.field for field in caught.value.fields] == list(wrong)
    assert len(caught.value.detail) < 600


def test_metrics_are_written_as_in_budgets() -> None:
    assert parse_metric("flops_per_token@context=64,phase=decode") == Metric(
        "flops_per_token", context=64, phase="decode"
    )


def test_interpolation_errors_are_relative_and_leave_noise_out() -> None:
    points = [(0.1, 0.11), (0.2, 0.15), (0.4, 0.4), (1e-9, 1e-6)]
    held_out = [
        HeldOut(rank=2, measured_nats=measured, predicted_nats=predicted) for measured, predicted in points
    ]
    first, *others = small_profile().curves
    curves = [first.replaced(held_out=held_out), *(each.replaced(held_out=()) for each in others)]
    profile = small_profile().replaced(curves=curves)
    found = interpolation_errors(profile)
    assert found["qk"].document == {
        "points": 3,
        "median": pytest.approx(0.1),
        "p95": pytest.approx(0.25),
        "too_small": 1,
    }
    assert found["mlp"].document == {"points": 0, "median": None, "p95": None, "too_small": 0}
