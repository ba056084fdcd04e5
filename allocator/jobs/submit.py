"""Submitting and cancelling jobs."""

from __future__ import annotations

from typing import Any

from ulid import ULID

from allocator.digests import digest
from allocator.errors import Conflict, FieldError, InvalidInput, TooManyRequests
from allocator.jobs import states
from allocator.jobs.pipeline import SEQUENCES
from allocator.jobs.progression import end, enter_next_stage, settle_cancel
from allocator.settings import Settings
from allocator.store import Job, Store, audit
from allocator.store.clock import EPOCH, utc_in

_RETRY_AFTER_S = 30


def submit(
    store: Store,
    settings: Settings,
    *,
    team: str,
    kind: str,
    request: dict[str, Any],
    created_by: str,
    idempotency_key: str | None = None,
    inline: bool = False,
) -> str:
    """Store a job, enter its first stage and announce its items, all in one transaction. Returns the job's
    id.

    Args:
        request: what is asked for, as JSON; ``model`` is the model reference. Never changes afterwards.
        idempotency_key: a second submission by this team with the same key and request returns the first job.
        inline: the caller will run it by `run_inline`; no worker touches it.

    Raises:
        InvalidInput: unknown kind, or a known key with another request; and whatever the first stage's
        ``items``
            finds wrong. Nothing is stored then.
        TooManyRequests: the team has ``max_open_jobs`` that have not ended.
    """
    if kind not in SEQUENCES:
        raise InvalidInput(
            f"Unknown kind of job {kind[:40]!r}.",
            fields=[FieldError("kind", kind[:40], " | ".join(SEQUENCES))],
        )
    job_id = str(ULID())
    request_sha256 = digest({"kind": kind, "request": request})
    with store.transaction() as connection:
        if not inline:
            store.teams.lock(team)
        inserted = store.jobs.insert(
            id=job_id,
            team=team,
            kind=kind,
            state=states.QUEUED,
            model=str(request.get("model", "")),
            request=request,
            request_sha256=request_sha256,
            idempotency_key=idempotency_key,
            created_by=created_by,
            inline=inline,
            inline_lease_expires_at=utc_in(settings.lease_s) if inline else EPOCH,
        )
        if not inserted:
            assert idempotency_key is not None
            return _earlier(store, team, idempotency_key, request_sha256)
        if not inline and store.jobs.count_open(team) > settings.max_open_jobs:
            raise TooManyRequests(
                f"Team {team} has {settings.max_open_jobs} jobs that have not ended, which is the limit"
                " (RANKALLOC_MAX_OPEN_JOBS). Wait for one to end, or cancel one.",
                retry_after_s=_RETRY_AFTER_S,
            )
        audit.add(connection, team, created_by, "submitted", "job", job_id, {"kind": kind})
        store.events.append(job_id, "job.queued", "The job was accepted.", {"kind": kind})
        job = store.jobs.lock(job_id)
        if not enter_next_stage(store, settings, job, after=None):
            raise InvalidInput("This job has nothing to do.")
    return job_id


def _earlier(store: Store, team: str, key: str, request_sha256: str) -> str:
    job = store.jobs.by_idempotency_key(team, key)
    assert job is not None, "the unique constraint has just found it"
    if job.request_sha256 != request_sha256:
        raise InvalidInput(
            "This Idempotency-Key was used for another request. Use a new key for a new job.",
            fields=[FieldError("Idempotency-Key", key, "a key of its own for every different request")],
        )
    return job.id


def cancel(store: Store, *, team: str, job_id: str, by: str) -> Job:
    """Ask for a job's end. At once where no worker is on it; else it is ``cancelling`` until the worker
    notices.

    Repeating it is harmless. Raises NotFound, and Conflict for a job that ended otherwise.
    """
    store.jobs.get(team, job_id)
    with store.transaction() as connection:
        job = store.jobs.lock(job_id)
        if job.state in states.OPEN:
            audit.add(connection, team, by, "cancelled", "job", job_id)
            store.items.cancel_queued(job_id)
            if store.items.count(job_id, "running"):
                states.check(job.state, states.CANCELLING)
                store.jobs.change(job_id, was=job.state, state=states.CANCELLING, queue_reason=None)
                store.events.append(job_id, "job.cancelling", "The job will stop at the next safe point.")
            else:
                end(store, job, states.CANCELLED, "The job was cancelled before any work was under way.")
        elif job.state == states.CANCELLING:
            settle_cancel(store, job)
        elif job.state != states.CANCELLED:
            raise Conflict(f"The job is over: it {_ENDED[job.state]}.")
    return store.jobs.get(team, job_id)


_ENDED = {states.SUCCEEDED: "succeeded", states.FAILED: "failed", states.CRASHED: "crashed"}
