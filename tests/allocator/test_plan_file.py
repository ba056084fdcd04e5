"""Plans from files: a plan as it was written is taken, anything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.files.plan_file import MAX_PLAN_BYTES, read_plan
from allocator.plan.planning import plan_from_profile
from tests.support.latency import table
from tests.support.plans import plan_file
from tests.support.profiles import small_profile

Document = dict[str, Any]
TIME = "latency=0.9@batch=1,context=64,phase=decode"


@pytest.fixture
def plan() -> Document:
    return plan_from_profile(small_profile(), ["block_params=0.7", TIME], latency=table()).document


def test_a_plan_comes_back_as_it_was_written(plan: Document) -> None:
    assert read_plan(json.dumps(plan, indent=2).encode()).document == json.loads(json.dumps(plan))


def test_a_shared_plan_that_was_saved_is_taken(plan: Document) -> None:
    assert read_plan(json.dumps({**plan, "shared_by": "red"}).encode()).digest == plan["digest"]
    # What `rankalloc plan --json --explain` prints.
    assert "explanation" not in read_plan(json.dumps({**plan, "explanation": {}}).encode()).document


def odd_rank(plan: Document) -> None:
    plan["ranks"][0]["qk"] = 3


def huge_rank(plan: Document) -> None:
    plan["ranks"][0]["ov"] = 10**6


def true_rank(plan: Document) -> None:
    plan["ranks"][0]["ov"] = True


def missing_layer(plan: Document) -> None:
    del plan["ranks"][1]


def other_costs(plan: Document) -> None:
    plan["costs"]["params"] -= 1


def nan_loss(plan: Document) -> None:
    plan["predicted"]["loss_nats"] = float("nan")


def no_baseline(plan: Document) -> None:
    del plan["baseline"]


def strange_geometry(plan: Document) -> None:
    plan["model"]["geometry"]["layers"] = "two"


def half_a_limit(plan: Document) -> None:
    plan["budgets"][0]["limit"] = 0.5


def numbers_for_text(plan: Document) -> None:
    plan["solver"] = plan["budgets"][0]["text"] = 1


def false_latents(plan: Document) -> None:
    plan["joint"] = "yes"


def falling_times(plan: Document) -> None:
    plan["latency_table"]["timings"][0]["parts"]["mlp"][0]["ns"] = 10**14


def unnamed_times(plan: Document) -> None:
    del plan["latency_table"]["digest"]


def later_field(plan: Document) -> None:
    plan["budgets"][0]["later"] = 1


def hostile_field(plan: Document) -> None:
    plan["\x1b[2J" + 1000 * "x"] = 1


def other_schema(plan: Document) -> None:
    plan["schema"] = "rankalloc.report/1"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (odd_rank, "layer 0 qk has rank 3"),
        (huge_rank, "layer 0 ov has rank 1000000"),
        (true_rank, "ranks[0].ov: found True; Input should be a valid integer"),
        (missing_layer, "its layers are not those of its geometry"),
        (other_costs, "its costs are not those of its ranks"),
        (nan_loss, "predicted.loss_nats: found nan; Input should be a finite number"),
        (no_baseline, "baseline: found nothing; Field required"),
        (strange_geometry, "model.geometry.layers: found 'two'; Input should be a valid integer"),
        (half_a_limit, "budgets[0].limit: found 0.5; Input should be a valid integer"),
        (numbers_for_text, "solver: found 1; Input should be a valid string"),
        (false_latents, "joint: found 'yes'; Input should be a valid boolean"),
        (falling_times, "latency table: timings.parts.mlp: found steps that fall"),
        (unnamed_times, "latency_table.digest: found nothing; Field required"),
        (later_field, "budgets[0].later: found 1; Extra inputs are not permitted"),
        (hostile_field, "cannot be used: \\x1b[2J" + 93 * "x" + ": found 1; Extra inputs are not permitted"),
        (other_schema, "its schema is 'rankalloc.report/1'"),
    ],
)
def test_anything_else_is_refused(plan: Document, harm: Callable[[Document], None], says: str) -> None:
    """Under the digest of what it says now, so that only what it says can be wrong."""
    harm(plan)
    with pytest.raises(InvalidInput) as caught:
        read_plan(plan_file(plan))
    assert says in caught.value.detail
    assert caught.value.detail.count("the plan file cannot be used") <= 1


def test_what_was_changed_afterwards_is_refused(plan: Document) -> None:
    first, second = plan["ranks"]
    first["mlp"], second["mlp"] = second["mlp"], first["mlp"] + 2
    with pytest.raises(InvalidInput, match="its content is not what its digest names"):
        read_plan(json.dumps(plan).encode())


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 10**5, b" " * (MAX_PLAN_BYTES + 1)])
def test_what_is_no_plan_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="the plan file cannot be used"):
        read_plan(data)
