"""A job as its users see it: the body of ``GET /v1/jobs/{id}`` and what ``compress`` draws its bars from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from allocator.stages.kinds import SEQUENCES
from allocator.stages.pipeline import GPU_QUEUE, queue_of
from allocator.store import Event, Job, Progress, Store, states


def job_document(store: Store, job: Job) -> dict[str, Any]:
    """The job as JSON (times as ISO 8601 in UTC); ``links`` are added by whoever serves it."""
    (document,) = job_documents(store, [job])
    return document


def job_documents(store: Store, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The jobs as ``job_document`` gives one, with one query for all of them."""
    items = store.items.of_present_stages([job.id for job in jobs if job.stage])
    return [_document(job, items.get(job.id, [])) for job in jobs]


def _document(job: Job, items: Sequence[Progress]) -> dict[str, Any]:
    # Two fields of what is stored: a page has up to 200 jobs, and a request object for each took most of its time.
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "stage": job.stage,
        "stages": list(SEQUENCES[job.kind]),
        "progress": progress(items) if job.stage else None,
        "queue_reason": _queue_reason(job, items, job.request.get("device")),
        "model": job.model,
        "budgets": job.request.get("budgets", []),
        "request": job.request,
        "weights_sha256": job.weights_sha256,
        "profile_key": job.profile_key,
        "plan": job.plan_digest,
        "error": job.error,
        "created_by": job.created_by,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "retry_of": job.retry_of,
    }


def event_document(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    return {
        "seq": event.seq,
        "type": event.type,
        "message": event.message,
        "data": event.data,
        "created_at": _time(event.created_at),
    }


def progress(items: Sequence[Progress]) -> dict[str, Any]:
    """``{done, total, unit}`` over all items of a stage, those within running items included.

    An item that has not told its size yet counts as large as its stage expected (``expected`` and ``unit`` of its payload),
    else as the average of those that have told. Where nobody knows, items themselves are the unit.
    """
    sized = [item for item in items if _size(item) > 0]
    if not sized:
        done = sum(item.state == states.SUCCEEDED for item in items)
        return {"done": done, "total": len(items), "unit": "items"}
    average = round(sum(map(_size, sized)) / len(sized))
    done = total = 0
    for item in items:
        size = _size(item) or average
        total += size
        done += size if item.state == states.SUCCEEDED else min(item.progress_done, size)
    return {"done": done, "total": total, "unit": sized[0].progress_unit or sized[0].payload["unit"]}


def _size(item: Progress) -> int:
    return item.progress_total or int(item.payload.get("expected", 0))


def _queue_reason(job: Job, items: Sequence[Progress], device: str | None) -> str | None:
    if job.state not in states.OPEN:
        return None
    if job.queue_reason:
        return job.queue_reason
    # A stage is entered when the one before it has ended: nothing runs outside the present one.
    if job.inline or any(item.state == states.RUNNING for item in items):
        return None
    if job.stage is not None and queue_of(job.stage, device) == GPU_QUEUE:
        return "Waiting for a free GPU worker (RANKALLOC_DEVICE=cuda rankalloc worker)."
    return "Waiting for a free worker."


def timestamp(value: datetime) -> str:
    """A time as JSON carries it everywhere: ISO 8601 in UTC, to the millisecond."""
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(value: datetime | None) -> str | None:
    return None if value is None else timestamp(value)
