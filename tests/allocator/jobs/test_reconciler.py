"""What deaths and lost messages leave behind is mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from allocator.base.settings import Settings
from allocator.jobs.document import job_document
from allocator.jobs.machine import dispatcher
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile, release
from allocator.store import Store
from tests.support.jobs import items, run_to_end, types
from tests.support.processes import wait_until

Submit = Callable[..., str]


def test_an_orphan_is_requeued_and_announced(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    any_store.wakeups.published(any_store.wakeups.due(), 1000.0)
    executor.claim(items(any_store, job_id)[0].id)
    reconcile(any_store, any_settings)
    assert any_store.wakeups.due() == [], "its lease is alive"
    wait_until(any_store.items.orphans, "the lease expires")
    reconcile(any_store, any_settings)
    reconcile(any_store, any_settings)
    (message,) = any_store.wakeups.due()
    assert executor.execute(message.item_id, message.attempt)
    assert types(any_store, job_id).count("item.lost_lease") == 1
    assert run_to_end(any_store, executor, job_id) == "succeeded"


def test_an_item_that_kills_its_workers_crashes_the_job(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"items": 2}})
    deadly = items(any_store, job_id)[0]
    for _ in range(any_settings.max_attempts):
        assert any_store.jobs.get("default", job_id).state in ("queued", "running")
        claimed = executor.claim(deadly.id)
        assert claimed is not None
        release(any_store, any_settings, claimed.lease_owner, counts=True)
    job = any_store.jobs.get("default", job_id)
    assert job.state == "crashed"
    assert job.error is not None
    assert (job.error["type"], job.error["item"]) == ("crashed", "prepare-0")
    assert [item.state for item in items(any_store, job_id)] == ["crashed", "cancelled"]


def test_stopping_the_service_does_not_count_against_an_item(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    (item,) = items(any_store, job_id)
    for _ in range(any_settings.max_attempts + 2):
        claimed = executor.claim(item.id)
        assert claimed is not None
        assert release(any_store, any_settings, claimed.lease_owner, counts=False) == 1
    assert run_to_end(any_store, executor, job_id) == "succeeded"


def test_a_lost_message_is_announced_again_with_growing_pauses(
    any_store: Store, any_settings: Settings, submit_job: Submit
) -> None:
    submit_job()
    for _ in range(2):
        any_store.wakeups.published(any_store.wakeups.due(), 0.2)  # and the broker loses it
        assert any_store.wakeups.due() == [], "announced at once, without giving the broker time"
        wait_until(any_store.wakeups.due, "the message is announced again")
        assert any_store.wakeups.count() == 1


def test_an_attempt_that_fails_before_its_message_counts_as_sent_is_announced_again(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    """A worker may be faster than the dispatcher that woke it."""
    job_id = submit_job()
    sent = any_store.wakeups.due()
    claimed = executor.claim(items(any_store, job_id)[0].id)
    assert claimed is not None
    release(any_store, any_settings, claimed.lease_owner, counts=False)
    any_store.wakeups.published(sent, 1000.0)
    (message,) = any_store.wakeups.due()
    assert message.attempt == claimed.attempt
    assert executor.execute(message.item_id, message.attempt)


def test_a_broker_that_is_down_is_a_reason_to_wait_and_no_error(
    any_store: Store, any_settings: Settings, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_job({"prepare": {"items": 3}})
    sent: list[str] = []
    down = True

    def publish(_app: Celery, item_id: str, _attempt: int, _queue: str) -> None:
        if down and sent:
            raise OperationalError("connection refused: redis://:secret@host")
        sent.append(item_id)

    monkeypatch.setattr(dispatcher, "publish", publish)

    def reason() -> Any:
        return job_document(any_store, any_store.jobs.get("default", job_id)).queue_reason

    assert reason() == "Waiting for a free worker."
    assert not dispatcher.publish_due(any_store, any_settings, Celery())
    assert "broker" in reason()
    assert "secret" not in reason()
    assert any_store.wakeups.count() == 2, "what was sent is not sent again"
    down = False
    assert dispatcher.publish_due(any_store, any_settings, Celery())
    assert reason() == "Waiting for a free worker."
    assert len(sent) == len(set(sent)) == 3


def test_an_inline_job_without_its_process_is_crashed(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job(inline=True)
    reconcile(any_store, any_settings)
    assert any_store.jobs.get("default", job_id).state == "queued"
    assert any_store.wakeups.count() == 0, "no worker is told of it"
    assert not executor.execute(items(any_store, job_id)[0].id), "no worker may take it"
    wait_until(any_store.jobs.abandoned_inline, "the process is missed")
    reconcile(any_store, any_settings)
    assert any_store.jobs.get("default", job_id).state == "crashed"
