"""Cancelling, in every state a job can be in."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from allocator.base.errors import Conflict, NotFound
from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile
from allocator.jobs.submit import cancel
from allocator.store import Store
from tests.support.jobs import items, run_to_end, types
from tests.support.processes import wait_until
from tests.support.stages import runs

Submit = Callable[..., str]


def test_a_queued_job_is_cancelled_at_once(any_store: Store, submit_job: Submit, executor: Executor) -> None:
    job_id = submit_job()
    assert cancel(any_store, team="default", job_id=job_id, by="me").state == "cancelled"
    assert not executor.execute(items(any_store, job_id)[0].id), "a message that was on its way"
    assert cancel(any_store, team="default", job_id=job_id, by="me").state == "cancelled", (
        "repeating is harmless"
    )
    assert types(any_store, job_id).count("job.cancelled") == 1


def test_a_running_item_notices_and_nothing_follows(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"items": 2, "gate": "prepare-0"}})
    first = items(any_store, job_id)[0]
    worker = threading.Thread(target=executor.execute, args=(first.id,))
    worker.start()
    wait_until(lambda: runs(any_settings, "begin"), "the item runs")
    assert cancel(any_store, team="default", job_id=job_id, by="me").state == "cancelling"
    again = cancel(any_store, team="default", job_id=job_id, by="me").state
    assert again in ("cancelling", "cancelled"), (
        "repeating is harmless; the worker may have noticed meanwhile"
    )
    worker.join()
    assert types(any_store, job_id).count("job.cancelled") == 1
    assert any_store.jobs.get("default", job_id).state == "cancelled"
    assert runs(any_settings, "end") == {}
    assert {item.state for item in items(any_store, job_id)} == {"cancelled"}


def test_an_item_that_ends_before_it_notices_cancels_too(
    any_store: Store, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    claimed = executor.claim(items(any_store, job_id)[0].id)
    assert claimed is not None
    cancel(any_store, team="default", job_id=job_id, by="me")
    executor.finish(claimed, {})
    assert any_store.jobs.get("default", job_id).state == "cancelled"
    assert any_store.jobs.get("default", job_id).stage == "prepare"


def test_a_worker_that_dies_while_cancelling_does_not_keep_the_job(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    assert executor.claim(items(any_store, job_id)[0].id) is not None
    cancel(any_store, team="default", job_id=job_id, by="me")
    wait_until(any_store.items.orphans, "the lease expires")
    reconcile(any_store, any_settings)
    assert any_store.jobs.get("default", job_id).state == "cancelled"


def test_a_finished_job_cannot_be_cancelled(any_store: Store, submit_job: Submit, executor: Executor) -> None:
    job_id = submit_job()
    run_to_end(any_store, executor, job_id)
    with pytest.raises(Conflict):
        cancel(any_store, team="default", job_id=job_id, by="me")
    with pytest.raises(NotFound):
        cancel(any_store, team="other", job_id=job_id, by="me")
