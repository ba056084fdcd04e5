"""Submitting: all or nothing, and once per idempotency key."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from allocator.base.errors import InvalidInput, TooManyRequests
from allocator.base.settings import Settings
from allocator.stages.kinds import SEQUENCES
from allocator.stages.request import Request
from allocator.store import Store
from tests.support.jobs import items, new_job, types

Submit = Callable[..., str]


def test_a_submitted_job_is_queued_with_its_first_stage_announced(
    any_store: Store, submit_job: Submit
) -> None:
    job_id = submit_job({"prepare": {"items": 3}})
    job = any_store.jobs.get("default", job_id)
    assert (job.state, job.stage, job.model) == ("queued", "prepare", "local:m")
    assert [item.key for item in items(any_store, job_id)] == ["prepare-0", "prepare-1", "prepare-2"]
    assert [message.item_id for message in any_store.wakeups.due()] == [
        i.id for i in items(any_store, job_id)
    ]
    assert types(any_store, job_id) == ["job.queued", "stage.started"]


def test_a_stage_without_items_is_skipped(any_store: Store, submit_job: Submit) -> None:
    job_id = submit_job({"prepare": {"items": 0}, "calibrate": {"items": 0}, "surroundings": {"items": 0}})
    assert any_store.jobs.get("default", job_id).stage == "profile"
    assert types(any_store, job_id) == ["job.queued", *["stage.skipped"] * 3, "stage.started"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"prepare": {"items_error": "invalid"}}, InvalidInput),
        ({"prepare": {"items_error": "bug"}}, ZeroDivisionError),
        ({name: {"items": 0} for name in SEQUENCES["profile"]}, InvalidInput),
    ],
)
def test_a_job_that_cannot_start_leaves_nothing(
    any_store: Store, submit_job: Submit, script: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        submit_job(script)
    assert any_store.jobs.find("default").items == []
    assert any_store.wakeups.count() == 0


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        Request(kind="mine_bitcoin", model="local:m")


def test_the_same_key_and_request_is_the_same_job(any_store: Store, submit_job: Submit) -> None:
    first = submit_job({"prepare": {"items": 2}}, idempotency_key="k")
    assert submit_job({"prepare": {"items": 2}}, idempotency_key="k") == first
    assert len(any_store.jobs.find("default").items) == 1
    assert any_store.wakeups.count() == 2


def test_the_same_key_with_another_request_is_refused(submit_job: Submit) -> None:
    submit_job({"prepare": {"items": 2}}, idempotency_key="k")
    with pytest.raises(InvalidInput, match="Idempotency-Key"):
        submit_job({"prepare": {"items": 3}}, idempotency_key="k")
    with pytest.raises(InvalidInput, match="Idempotency-Key"):
        submit_job({"prepare": {"items": 2}}, idempotency_key="k", kind="plan")


def test_the_same_key_of_another_team_is_another_job(submit_job: Submit) -> None:
    assert submit_job(idempotency_key="k") != submit_job(idempotency_key="k", team="other")


def test_of_many_submissions_at_once_one_makes_the_job(any_store: Store, submit_job: Submit) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: submit_job(idempotency_key="k"), range(24)))
    assert len(ids) == 1
    assert any_store.wakeups.count() == 1


def test_of_many_submissions_at_once_no_more_than_the_limit_stay(
    any_store: Store, any_settings: Settings, scripted: None
) -> None:
    few = any_settings.model_copy(update={"max_open_jobs": 3})
    any_store.teams.create("red", actor="op")

    def one(_: int) -> bool:
        request = {"model": "local:m"}
        try:
            new_job(any_store, few, "profile", request, team="red")
        except TooManyRequests:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(16))) == 3
    assert any_store.jobs.count_open("red") == 3
