"""Jobs: submit, list, look, cancel, do again, follow."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from allocator.jobs.document import EventDocument, JobDocument, JobState, event_document
from allocator.store import states
from api.schemas.answers import EventList, JobPage
from api.schemas.requests import JobRequest
from api.web.addresses import address
from api.web.authentication import caller_of
from api.web.etags import conditional_json
from api.web.services import CallerDep, Services, ServicesDep, SubmitDep, SubmitTeamDep, TeamDep

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_STREAM_POLL_S = 0.2
_ASK_AGAIN_S = 10.0
_EVENTS_AT_ONCE = 500
JobId = Annotated[str, Path(max_length=64, description="As answered by `POST /v1/jobs`.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Any text of your own; sending the same request again with it makes no second job.",
    ),
]


@router.post("", status_code=202, response_model=JobDocument)
def submit_job(
    body: JobRequest,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDocument:
    """Submit a job, which a worker carries out: look at `Location` (`Retry-After` says when) or follow its events."""
    job = services.team(caller).jobs.submit(body, idempotency_key=idempotency_key)
    return _accepted(services, response, job)


def _accepted(services: Services, response: Response, job: JobDocument) -> JobDocument:
    """The answer to whoever has submitted a job; its messages are published at once."""
    services.wake()
    response.headers["Location"] = address(f"/v1/jobs/{job.id}")
    response.headers["Retry-After"] = "1"
    return job


@router.post("/{job_id}/retry", status_code=202, response_model=JobDocument)
def retry_job(
    job_id: JobId,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDocument:
    """Do a failed, crashed or cancelled job again, as a new one (`retry_of`) that measures nothing twice; else 409."""
    job = services.team(caller).jobs.retry(job_id, idempotency_key=idempotency_key)
    return _accepted(services, response, job)


@router.get("", response_model=JobPage)
def list_jobs(
    team: TeamDep,
    state: JobState | None = None,
    model: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Jobs, newest first."""
    return vars(team.jobs.page(state=state, model=model, limit=limit, cursor=cursor))


@router.get("/{job_id}", response_model=JobDocument)
def get_job(job_id: JobId, team: TeamDep, request: Request) -> Response:
    """A job's state and progress. With `If-None-Match` 304 while nothing has changed."""
    return conditional_json(request, team.jobs.get(job_id).document)


@router.post("/{job_id}/cancel", status_code=202, response_model=JobDocument)
def cancel_job(job_id: JobId, team: SubmitTeamDep) -> JobDocument:
    """Ask for the job's end. Repeating it is harmless; 409 for a job that ended otherwise."""
    return team.jobs.cancel(job_id)


@router.get("/{job_id}/events", response_model=EventList)
def list_events(
    job_id: JobId,
    team: TeamDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Only events numbered above this.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> dict[str, Any]:
    """The job's events, in order."""
    return {"items": team.jobs.events(job_id, after=after, limit=limit)}


def _existing(job_id: JobId, services: ServicesDep, caller: CallerDep) -> str:
    """A dependency, so that an unknown job is a 404 and not a stream that breaks off."""
    return services.store.jobs.get(caller.team, job_id).id


@router.get("/{job_id}/events/stream", response_class=EventSourceResponse)
async def stream_events(
    job_id: Annotated[str, Depends(_existing)],
    services: ServicesDep,
    caller: CallerDep,
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> AsyncIterable[ServerSentEvent]:
    """The same as server-sent events: `id` is the number, `event` the type, `data` the event.

    A browser that reconnects sends `Last-Event-ID` and misses nothing. The stream ends when the job has
    ended, or soon after the token has.
    """
    last = min(int(last_event_id), 2**62) if last_event_id and last_event_id.isdecimal() else after

    def fetch() -> tuple[bool, list[EventDocument]]:
        # The state first: events of the transaction that ended the job are then certain to be in the list.
        over = services.store.jobs.get(caller.team, job_id).state in states.TERMINAL
        events = services.store.events.list(caller.team, job_id, after=last, limit=_EVENTS_AT_ONCE)
        return over, [event_document(event) for event in events]

    checked_at = anyio.current_time()
    while not services.stopping.is_set():
        if anyio.current_time() - checked_at > _ASK_AGAIN_S:
            if await run_in_threadpool(caller_of, request) is None:
                return
            checked_at = anyio.current_time()
        over, events = await run_in_threadpool(fetch)
        for event in events:
            last = event.seq
            yield ServerSentEvent(data=event.document, event=event.type, id=str(last))
        if over and len(events) < _EVENTS_AT_ONCE:
            return
        if not events:
            await anyio.sleep(_STREAM_POLL_S)
