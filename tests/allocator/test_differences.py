"""What changes between two plans: numbers that are counted again by hand, and the words made of them."""

from __future__ import annotations

import pytest

from allocator.base.errors import Conflict, InvalidInput
from allocator.plan.differences import diff_plans, signed
from allocator.plan.documents.plan import Plan
from allocator.plan.model.geometry import Geometry
from allocator.plan.planning import plan_from_profile
from tests.support.plans import plan_named
from tests.support.profiles import SMALL, small_profile


@pytest.fixture
def plans() -> tuple[Plan, Plan]:
    a, b = (plan_from_profile(small_profile(), [f"params={share}"]) for share in (0.9, 0.7))
    return a, b


def _of(plan: Plan, geometry: Geometry) -> Plan:
    """The same for a model of this shape."""
    return plan.replaced(model=plan.model.replaced(geometry=geometry))


def test_differences_name_components_and_totals(plans: tuple[Plan, Plan]) -> None:
    a, b = plans
    diff = diff_plans(a, b)
    assert diff.changes
    for change in diff.changes:
        assert getattr(a.ranks[change.layer], change.component) == change.from_
        assert getattr(b.ranks[change.layer], change.component) == change.to
    assert diff.costs["params"].change == b.costs["params"] - a.costs["params"] < 0
    assert diff.predicted_loss_nats.change > 0
    with pytest.raises(Conflict):
        diff_plans(a, _of(b, SMALL.replaced(hidden=SMALL.hidden + 1)))


def test_changes_of_components_add_up_to_those_of_the_model(
    plans: tuple[Plan, Plan],
) -> None:
    a, b = plans
    diff = diff_plans(a, b, small_profile())
    assert diff.losses_note is None
    losses = sum(change.loss_nats for change in diff.changes)
    assert losses == pytest.approx(diff.predicted_loss_nats.change, rel=1e-9)
    for metric, total in diff.costs.items():
        assert sum(change.costs[metric] for change in diff.changes) == total.change, metric


def test_the_cache_is_counted_by_hand(plans: tuple[Plan, Plan]) -> None:
    a, b = plans
    diff = diff_plans(a, b, batch=3, context=1000)
    for change in diff.changes:
        heads = 0 if change.component == "mlp" else SMALL.kv_heads
        per_token = (change.to - change.from_) * heads * SMALL.bytes_per_param
        assert change.costs["kv_bytes_per_token"] == per_token
        assert change.kv_bytes == 3000 * per_token
    windowed = [_of(plan, SMALL.replaced(windows=(64, 0))) for plan in plans]
    for change in diff_plans(*windowed, context=1000).changes:
        positions = 64 if change.layer == 0 else 1000
        assert change.kv_bytes == positions * change.costs["kv_bytes_per_token"]
    assert diff_plans(a, b).changes[0].kv_bytes is None
    with pytest.raises(InvalidInput, match="context"):
        diff_plans(a, b, batch=2)
    with pytest.raises(InvalidInput, match="batch"):
        diff_plans(a, b, batch=0, context=3)


def test_a_change_reads_as_a_line() -> None:
    a = plan_from_profile(small_profile(), ["params=0.9"])
    first, second = a.ranks
    a = a.replaced(ranks=(first, second.replaced(qk=16, ov=16, mlp=128)))
    b = a.replaced(ranks=(first, second.replaced(qk=16, ov=8, mlp=64)))
    curves = {(curve.layer, curve.component): curve for curve in small_profile().curves}
    ov = curves[1, "ov"]
    loss = ov.loss_at(8)
    kv, mlp = [change.text for change in diff_plans(a, b, small_profile(), batch=8, context=10**6).changes]
    # 8 dimensions of 2 heads in 2 bytes, 8 million positions; 64 hidden x (4 + 2 heads) parameters each.
    assert kv == f"layer 1 OV 16 -> 8, {loss:+.2g} nats, -256 MB KV, -3.07 k parameters"
    assert mlp.startswith("layer 1 MLP 128 -> 64, +")
    assert mlp.endswith(" nats, -12.3 k parameters")
    assert "-32 B KV/token" in diff_plans(a, b).changes[0].text
    assert "nats" not in diff_plans(a, b).changes[0].text


def test_losses_that_cannot_be_told_are_null_and_said(plans: tuple[Plan, Plan]) -> None:
    a, b = plans
    missing = diff_plans(a, b)
    assert all(change.loss_nats is None for change in missing.changes)
    assert "not stored here" in missing.losses_note
    other = diff_plans(a, b.replaced(profile_key="other"), small_profile())
    assert "different profiles" in other.losses_note
    transferred = plan_named(b.digest, profile_key=b.profile_key, transferred_from="x")
    moved = diff_plans(a, transferred, small_profile())
    assert "transferred" in moved.losses_note
    assert all(change.loss_nats is None for change in [*other.changes, *moved.changes])


@pytest.mark.parametrize(
    ("value", "text"),
    [(-38_200_000, "-38.2 M"), (512, "+512 "), (999, "+999 "), (1000, "+1 k"), (999_600, "+1 M"), (0, "+0 ")],
)
def test_changes_have_signs_and_prefixes(value: int, text: str) -> None:
    assert signed(value) == text
