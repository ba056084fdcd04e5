"""The moves of a job: entering stages, ending, cancelling. Everything here runs inside the caller's transaction,
with the job locked, so that what is decided and what is stored are one.
"""

from __future__ import annotations

import logging
from typing import Any

from ulid import ULID

from allocator.base.errors import RankallocError
from allocator.base.settings import Settings
from allocator.stages.kinds import SEQUENCES
from allocator.stages.pipeline import JobView
from allocator.stages.request import Request
from allocator.store import Job, Store, states
from allocator.store.clock import utcnow

log = logging.getLogger(__name__)


def view(store: Store, job: Job, *, before: str) -> JobView:
    """The job as stage ``before`` may see it: with the results of all stages that come earlier."""
    finished = store.items.results(job.id)
    sequence = SEQUENCES[job.kind]
    results = {stage: finished.get(stage, []) for stage in sequence[: sequence.index(before)]}
    request = Request.stored(job.kind, job.request)
    return JobView(job.id, job.team, request, results, job.created_by)


def enter_next_stage(store: Store, settings: Settings, job: Job, *, after: str | None) -> bool:
    """Enter the first stage behind ``after`` that has items, and announce these. False: there is none left.

    Raises what the stage's ``items`` raises.
    """
    from allocator.stages.registry import STAGES

    sequence = SEQUENCES[job.kind]
    for name in sequence[0 if after is None else sequence.index(after) + 1 :]:
        specs = STAGES[name].items(view(store, job, before=name), store, settings)
        if not specs:
            store.events.append(job.id, "stage.skipped", f"Stage {name} has nothing to do.", {"stage": name})
            continue
        rows: list[dict[str, Any]] = [
            {
                "id": str(ULID()),
                "job_id": job.id,
                "stage": name,
                "position": position,
                "key": spec.key,
                "payload": spec.payload,
            }
            for position, spec in enumerate(specs)
        ]
        store.items.add(rows)
        store.jobs.change(job.id, was=job.state, stage=name)
        parts = "1 part" if len(rows) == 1 else f"{len(rows)} parts"
        store.events.append(
            job.id,
            "stage.started",
            f"Stage {name} has started: {parts}.",
            {"stage": name, "items": len(rows)},
        )
        return True
    return False


def advance(store: Store, settings: Settings, job: Job, *, finished_stage: str) -> None:
    """After an item has succeeded: enter the next stage, or end the job, if it was the stage's last."""
    if job.state == states.CANCELLING:
        settle_cancel(store, job)
        return
    if job.state in states.TERMINAL or store.items.count(job.id):
        return
    try:
        # A stage that fails to list its items must not undo the result that brought us here.
        with store.savepoint():
            entered = enter_next_stage(store, settings, job, after=finished_stage)
    except RankallocError as error:
        fail(store, job, error_document(error, stage=finished_stage))
    except Exception as error:
        log.exception("job %s: entering the stage after %s failed", job.id, finished_stage)
        fail(store, job, internal_document(error, where=f"entering the stage after {finished_stage}"))
    else:
        if not entered:
            end(store, job, states.SUCCEEDED, "The job has succeeded.")


def end(store: Store, job: Job, state: str, message: str, error: dict[str, Any] | None = None) -> None:
    """Put a job into a terminal state; what it still had queued is cancelled."""
    changed = store.jobs.change(
        job.id, was=job.state, state=state, error=error, finished_at=utcnow(), queue_reason=None
    )
    assert changed, "the job was not locked"
    store.items.cancel_queued(job.id)
    store.events.append(job.id, f"job.{state}", message, {"error": error} if error else None)


def fail(store: Store, job: Job, error: dict[str, Any], state: str = states.FAILED) -> None:
    """End a job by an error, unless it is being cancelled or over already."""
    if job.state == states.CANCELLING:
        settle_cancel(store, job)
    elif job.state not in states.TERMINAL:
        end(store, job, state, error["detail"], error)


def settle_cancel(store: Store, job: Job) -> None:
    """Turn cancelling into cancelled once nobody runs an item."""
    if not store.items.count(job.id, states.RUNNING):
        end(store, job, states.CANCELLED, "The job was cancelled.")


def error_document(error: RankallocError, **where: Any) -> dict[str, Any]:
    """The document that a job row keeps of an error meant for people; ``status`` and ``exit_code`` are for reporters."""
    return {**error.document(), **where, "status": error.status, "exit_code": error.exit_code}


def internal_document(error: BaseException, *, where: str) -> dict[str, Any]:
    """The document that a job row keeps of any other error: its kind only, since its text may hold paths or data."""
    return {
        "type": "internal",
        "title": "Internal error",
        "detail": f"{type(error).__name__} while {where}. The worker's log has the details.",
        "errors": [],
        "status": 500,
        "exit_code": 4,
    }


def crash_document(detail: str, **where: Any) -> dict[str, Any]:
    """The document that a job row keeps where nobody was left to report an error."""
    head = {"type": "crashed", "title": "Job crashed", "detail": detail, "errors": []}
    return {**head, **where, "status": 500, "exit_code": 4}
