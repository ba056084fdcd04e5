"""Looking at jobs and running them in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocator.base.settings import Settings
from allocator.jobs.document import EventDocument, JobDocument
from allocator.jobs.machine.executor import Executor
from allocator.jobs.submit import submit
from allocator.stages.request import Request
from allocator.store import Item, Store


def new_job(store: Store, settings: Settings, kind: str, request: Mapping[str, Any], **more: Any) -> str:
    """The id of a new job, of "me" in team "default" where ``more``, as `submit` takes it, says nothing else."""
    said = {"team": "default", "created_by": "me", **more}
    return submit(store, settings, request=Request.stored(kind, request), **said)


def shown_job(**said: Any) -> JobDocument:
    """A job's document as nobody made it: under way, but for what is said."""
    document = {
        "id": "J",
        "kind": "profile",
        "state": "running",
        "stage": "prepare",
        "stages": ["prepare"],
        "progress": None,
        "queue_reason": None,
        "model": "local:m",
        "budgets": [],
        "request": {},
        **dict.fromkeys(("weights_sha256", "profile_key", "plan", "error", "started_at", "finished_at")),
        "created_by": "me",
        "created_at": "2026-01-31T12:00:00.000Z",
        "retry_of": None,
    }
    return JobDocument.stored({**document, **said})


def shown_event(seq: int, **said: Any) -> EventDocument:
    """An event's document, likewise."""
    document = {"type": "test.ran", "message": "", "data": {}, "created_at": "2026-01-31T12:00:00.000Z"}
    return EventDocument.stored({"seq": seq, **document, **said})


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
