"""Submitting, cancelling and retrying jobs, and letting go of what they wrote."""

from __future__ import annotations

import shutil
from typing import Any

from ulid import ULID

from allocator.base.digests import digest
from allocator.base.errors import Conflict, InvalidInput, TooManyRequests
from allocator.base.settings import Settings
from allocator.jobs.machine.progression import end, enter_next_stage, settle_cancel
from allocator.stages.request import Request
from allocator.store import Job, Store, audit, states
from allocator.store.clock import EPOCH, utc_in

RETRIED = frozenset({states.FAILED, states.CRASHED, states.CANCELLED})
"""States of jobs that may be done again."""
_RETRY_AFTER_S = 30


def submit(
    store: Store,
    settings: Settings,
    *,
    team: str,
    request: Request,
    created_by: str,
    idempotency_key: str | None = None,
    sent: dict[str, Any] | None = None,
    retry_of: str | None = None,
    inline: bool = False,
) -> str:
    """Store a job, enter its first stage and announce its items, all in one transaction. Returns the job's
    id.

    Args:
        request: never changes afterwards.
        idempotency_key: a second submission by this team with the same key and request returns the first job.
        sent: the request's document as it was sent, by which a second submission is recognised; default: ``request``'s.
        retry_of: the job that this one does again.
        inline: the caller will run it by `run_inline`; no worker touches it.

    Raises:
        InvalidInput: a known key with another request; and whatever the first stage's ``items`` finds wrong. Nothing is
            stored then.
        TooManyRequests: the team has ``max_open_jobs`` that have not ended.
    """
    job_id, kind, document = str(ULID()), request.kind, request.document
    request_sha256 = _hash(kind, document if sent is None else sent)
    with store.transaction() as connection:
        if not inline:
            store.teams.lock(team)
        inserted = store.jobs.insert(
            id=job_id,
            team=team,
            kind=kind,
            state=states.QUEUED,
            model=request.model,
            request=document,
            request_sha256=request_sha256,
            idempotency_key=idempotency_key,
            created_by=created_by,
            retry_of=retry_of,
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


def _hash(kind: str, document: dict[str, Any]) -> str:
    return digest({"kind": kind, "request": document})


def submitted(store: Store, *, team: str, request: Request, idempotency_key: str | None) -> str | None:
    """The job that this very request has made before, whatever has become of what it names. Raises InvalidInput as `submit`."""
    if idempotency_key is None or store.jobs.by_idempotency_key(team, idempotency_key) is None:
        return None
    return _earlier(store, team, idempotency_key, _hash(request.kind, request.document))


def retry(
    store: Store,
    settings: Settings,
    *,
    team: str,
    job_id: str,
    created_by: str,
    idempotency_key: str | None = None,
) -> str:
    """Submit a failed, crashed or cancelled job again as a new one, which finds what was measured and so repeats little.

    Raises:
        NotFound: no such job.
        Conflict: it is not over, has succeeded, or was run by a command on this machine's own paths.
    """
    job = store.jobs.get(team, job_id)
    if job.state not in RETRIED:
        raise Conflict(
            f"The job is {job.state}; only one that failed, crashed or was cancelled is done again."
        )
    if job.inline:
        raise Conflict("The job was run by a command on its own machine; run that command again.")
    return submit(
        store,
        settings,
        team=team,
        request=Request.stored(job.kind, job.request),
        created_by=created_by,
        idempotency_key=idempotency_key,
        sent={"retry": job_id},
        retry_of=job_id,
    )


def remove_artifacts(store: Store, settings: Settings, *, team: str, job_id: str, by: str) -> int:
    """Remove the files that a finished job wrote; their rows stay and say so. How many files there were; repeating it is
    harmless.

    Raises:
        NotFound: no such job.
        Conflict: it is not over.
    """
    store.jobs.get(team, job_id)
    with store.transaction() as connection:
        job = store.jobs.lock(job_id)
        if job.state not in states.TERMINAL:
            raise Conflict(f"The job is {job.state}; its files can be removed when it is over.")
        removed = store.artifacts.mark_removed(team, job_id)
        if removed:
            store.events.append(
                job_id, "artifacts.removed", f"{removed} files were removed.", {"files": removed}
            )
            audit.add(connection, team, by, "removed", "artifacts", job_id, {"files": removed})
    shutil.rmtree(settings.artifacts_dir / job.id, ignore_errors=True)
    return removed


def _earlier(store: Store, team: str, key: str, request_sha256: str) -> str:
    job = store.jobs.by_idempotency_key(team, key)
    assert job is not None, "the unique constraint has just found it"
    if job.request_sha256 != request_sha256:
        allowed = "a key of its own for every different request"
        raise InvalidInput.of("Idempotency-Key", key, allowed, "it was used for another request; use")
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
            if store.items.count(job_id, states.RUNNING):
                store.jobs.change(job_id, was=job.state, state=states.CANCELLING, queue_reason=None)
                store.events.append(job_id, "job.cancelling", "The job will stop at the next safe point.")
            else:
                end(store, job, states.CANCELLED, "The job was cancelled before any work was under way.")
        elif job.state == states.CANCELLING:
            settle_cancel(store, job)
        elif job.state != states.CANCELLED:
            raise Conflict(f"The job is over: it {_ENDED[job.state]}.")
    return store.jobs.get(team, job_id)


_ENDED: dict[str, str] = {states.SUCCEEDED: "succeeded", states.FAILED: "failed", states.CRASHED: "crashed"}
