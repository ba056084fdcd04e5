"""Plans from files: a plan as it was written is taken, anything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.files.plan_file import MAX_PLAN_BYTES, read_plan
from allocator.plan.planning import plan_digest, plan_from_profile
from tests.support.profiles import small_profile


@pytest.fixture
def plan() -> dict[str, Any]:
    return plan_from_profile(small_profile(), ["block_params=0.7"])


def test_a_plan_comes_back_as_it_was_written(plan: dict[str, Any]) -> None:
    assert read_plan(json.dumps(plan, indent=2).encode()) == json.loads(json.dumps(plan))


def _renamed(plan: dict[str, Any]) -> None:
    """The digest of what it says now, so that only what it says can be wrong."""
    plan["digest"] = plan_digest(plan)


def other_ranks(plan: dict[str, Any]) -> None:
    plan["ranks"][0]["mlp"], plan["ranks"][1]["mlp"] = plan["ranks"][1]["mlp"], plan["ranks"][0]["mlp"] + 2


def odd_rank(plan: dict[str, Any]) -> None:
    plan["ranks"][0]["qk"] = 3
    _renamed(plan)


def huge_rank(plan: dict[str, Any]) -> None:
    plan["ranks"][0]["ov"] = 10**6
    _renamed(plan)


def true_rank(plan: dict[str, Any]) -> None:
    plan["ranks"][0]["ov"] = True
    _renamed(plan)


def missing_layer(plan: dict[str, Any]) -> None:
    del plan["ranks"][1]
    _renamed(plan)


def other_costs(plan: dict[str, Any]) -> None:
    plan["costs"]["params"] -= 1


def nan_loss(plan: dict[str, Any]) -> None:
    plan["predicted"]["loss_nats"] = float("nan")


def no_baseline(plan: dict[str, Any]) -> None:
    del plan["baseline"]


def strange_geometry(plan: dict[str, Any]) -> None:
    plan["model"]["geometry"]["layers"] = "two"
    _renamed(plan)


def other_schema(plan: dict[str, Any]) -> None:
    plan["schema"] = "rankalloc.report/1"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (other_ranks, "its content is not what its digest names"),
        (odd_rank, "layer 0 qk has rank 3"),
        (huge_rank, "layer 0 ov has rank 1000000"),
        (true_rank, "layer 0 ov has rank True"),
        (missing_layer, "its layers are not those of its geometry"),
        (other_costs, "its costs are not those of its ranks"),
        (nan_loss, "its predicted loss or model is unreadable"),
        (no_baseline, "KeyError: 'baseline'"),
        (strange_geometry, "lacks or misspells something"),
        (other_schema, "its schema is 'rankalloc.report/1'"),
    ],
)
def test_anything_else_is_refused(
    plan: dict[str, Any], harm: Callable[[dict[str, Any]], None], says: str
) -> None:
    harm(plan)
    with pytest.raises(InvalidInput) as caught:
        read_plan(json.dumps(plan).encode())
    assert says in caught.value.detail


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff", b"[" * 10**5, b" " * (MAX_PLAN_BYTES + 1)])
def test_what_is_no_plan_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="the plan file cannot be used"):
        read_plan(data)
