"""Looking at jobs and running them in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import submit
from allocator.stages.request import Request
from allocator.store import Item, Store


def new_job(store: Store, settings: Settings, kind: str, request: Mapping[str, Any], **more: Any) -> str:
    """The id of a new job, of "me" in team "default" where ``more``, as `submit` takes it, says nothing else."""
    said = {"team": "default", "created_by": "me", **more}
    return submit(store, settings, request=Request.stored(kind, request), **said)


def items(store: Store, job_id: str) -> list[Item]:
    """The items of a job's present stage."""
    stage = store.jobs.get("default", job_id).stage
    assert stage is not None
    return store.items.of_stage(job_id, stage)


def types(store: Store, job_id: str) -> list[str]:
    """The types of a job's events, which are also checked to be numbered without gaps."""
    events = store.events.list("default", job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


def run_to_end(store: Store, executor: Executor, job_id: str) -> str:
    """Execute what is queued, in order, until the job has ended; returns its state."""
    for _ in range(1000):
        job = store.jobs.get("default", job_id)
        if job.finished_at is not None:
            return job.state
        for item in items(store, job_id):
            executor.execute(item.id)
    raise AssertionError(f"the job does not end: {types(store, job_id)}")
