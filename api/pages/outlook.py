"""A job's cost and end, as its page says them: the cost that was stated, its stage's pace, the time of the last such job."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from allocator.jobs.document import JobDocument
from allocator.stages.request import Request
from allocator.store import Job, states
from api.web.pace import Pace, elapsed_text, left_text
from api.web.services import Services

_BEFORE = 20


@dataclass(frozen=True)
class Outlook:
    """Sentences; empty where there is nothing to say."""

    cost: str
    """In forward passes, as it was stated before anything was measured."""
    stage: str
    """Elapsed and left of the present stage, the time at which it ends, and what comes after it."""
    before: str
    """The time that the last job like it took; once it is over, its own."""


def outlook(services: Services, team: str, job: Job, document: JobDocument) -> Outlook:
    """The outlook of a job that the team may see; ``document`` is its `job_document`."""
    events = services.store.events.list(team, job.id, types=("profile.cost", "stage.started"))
    cost = next((event.message for event in events if event.type == "profile.cost"), "")
    entered = max((event.seq for event in events if event.type == "stage.started"), default=0)
    return Outlook(
        cost=cost[:1].upper() + cost[1:],
        stage=_stage(services, team, job, document, entered),
        before=_before(services, team, job),
    )


def _stage(services: Services, team: str, job: Job, document: JobDocument, entered: int) -> str:
    progress, waiting = document.progress, document.queue_reason is not None
    first = services.store.events.list(team, job.id, types=("item.started",), after=entered, limit=1)
    if job.stage is None or job.state not in states.OPEN or not first or not progress or not progress.total:
        return ""
    share, now = progress.done / progress.total, time.time()
    started = first[0].created_at.timestamp()
    # Of whoever has looked before, so that the time left counts down between two steps.
    pace = services.paces.get((job.id, job.stage, entered), lambda: Pace(0.0, started))
    pace.see(share, now, waiting=waiting)
    parts, left = [f"{elapsed_text(max(pace.elapsed_s(now), 0.0))} elapsed"], pace.left_s(now)
    if left is not None and not waiting:
        ends = datetime.now(UTC) + timedelta(seconds=left)
        parts.append(f"{left_text(left)}, until about {ends:%H:%M} UTC")
    after = document.stages[document.stages.index(job.stage) + 1 :]
    return ", ".join(parts) + (f"; then {', '.join(after)}" if after else "")


def _before(services: Services, team: str, job: Job) -> str:
    if job.started_at and job.finished_at:
        return f"It took {_took(job)}."
    if job.state not in states.OPEN:
        return ""
    ended = services.store.jobs.find(team, state=states.SUCCEEDED, model=job.model, limit=_BEFORE).items
    alike = next((other for other in ended if _work_of(other) == _work_of(job)), None)
    if alike is None or not alike.started_at:
        return ""
    return (
        f"The last {job.kind} job of this model took {_took(alike)}; what it measured is not measured again."
    )


def _work_of(job: Job) -> tuple[object, ...]:
    """The work of a job: two jobs of one model with the same work take equally long."""
    request = Request.stored(job.kind, job.request)
    measured = request.effort, request.solver, request.samples, request.sequence_length, request.bits
    return (job.kind, request.device, *measured, request.plan, request.heal, request.refine)


def _took(job: Job) -> str:
    assert job.started_at is not None
    assert job.finished_at is not None
    return elapsed_text((job.finished_at - job.started_at).total_seconds())
