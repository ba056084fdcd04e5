"""Jobs: submit, list, look, cancel, do again, follow."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from allocator.jobs import submit
from allocator.jobs.document import event_document, job_documents
from allocator.store import Job, Store, states
from api.addresses import address
from api.answer_schemas import EventList, JobOut, JobPage
from api.authentication import caller_of
from api.checks import checked_request
from api.etags import conditional_json
from api.schemas import JobRequest, JobState
from api.services import Caller, CallerDep, Services, ServicesDep, SubmitDep

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


def _document(store: Store, job: Job) -> dict[str, Any]:
    (document,) = _documents(store, [job])
    return document


def _documents(store: Store, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    documents = job_documents(store, jobs)
    return [{**document, "links": _links(job)} for job, document in zip(jobs, documents, strict=True)]


def _links(job: Job) -> dict[str, str]:
    base = address(f"/v1/jobs/{job.id}")
    links = {"self": base, "events": f"{base}/events", "stream": f"{base}/events/stream"}
    links["artifacts"] = f"{base}/artifacts"
    if job.state not in states.TERMINAL:
        links["cancel"] = f"{base}/cancel"
    if job.state in submit.RETRIED and not job.inline:
        links["retry"] = f"{base}/retry"
    if job.retry_of:
        links["retry_of"] = address(f"/v1/jobs/{job.retry_of}")
    if job.plan_digest:
        links["plan"] = address(f"/v1/plans/{job.plan_digest}")
    if job.profile_key:
        links["profile"] = address(f"/v1/profiles/{job.profile_key}")
    return links


@router.post("", status_code=202, response_model=JobOut)
def submit_job(
    body: JobRequest,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Accept a job. It is carried out by a worker; look at `Location` or follow its events."""
    key, team = idempotency_key, caller.team
    job_id = submit.submitted(services.store, team=team, request=body, idempotency_key=key)
    if job_id is None:
        job_id = submit.submit(
            services.store,
            services.settings,
            team=team,
            request=checked_request(services.store, services.settings, team, body),
            asked=body.document,
            created_by=caller.name,
            idempotency_key=key,
        )
    return accepted(services, caller, response, job_id)


def accepted(services: Services, caller: Caller, response: Response, job_id: str) -> dict[str, Any]:
    """The answer to whoever has submitted a job; its messages are published at once."""
    services.wake()
    response.headers["Location"] = address(f"/v1/jobs/{job_id}")
    response.headers["Retry-After"] = "1"
    return _document(services.store, services.store.jobs.get(caller.team, job_id))


@router.post("/{job_id}/retry", status_code=202, response_model=JobOut)
def retry_job(
    job_id: JobId,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Do a failed, crashed or cancelled job again, as a new job that repeats nothing it finds measured; else 409."""
    new_id = submit.retry(
        services.store,
        services.settings,
        team=caller.team,
        job_id=job_id,
        created_by=caller.name,
        idempotency_key=idempotency_key,
    )
    return accepted(services, caller, response, new_id)


@router.get("", response_model=JobPage)
def list_jobs(
    services: ServicesDep,
    caller: CallerDep,
    state: JobState | None = None,
    model: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Jobs, newest first."""
    page = services.store.jobs.find(caller.team, state=state, model=model, limit=limit, cursor=cursor)
    return {
        "items": _documents(services.store, page.items),
        "next_cursor": page.next_cursor,
    }


@router.get("/{job_id}", response_model=JobOut)
def get_job(job_id: JobId, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """A job's state and progress. With `If-None-Match` 304 while nothing has changed."""
    job = services.store.jobs.get(caller.team, job_id)
    return conditional_json(request, _document(services.store, job))


@router.post("/{job_id}/cancel", status_code=202, response_model=JobOut)
def cancel_job(job_id: JobId, services: ServicesDep, caller: SubmitDep) -> dict[str, Any]:
    """Ask for the job's end. Repeating it is harmless; 409 for a job that ended otherwise."""
    job = submit.cancel(services.store, team=caller.team, job_id=job_id, by=caller.name)
    return _document(services.store, job)


@router.get("/{job_id}/events", response_model=EventList)
def list_events(
    job_id: JobId,
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Only events numbered above this.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> dict[str, Any]:
    """What has happened to the job, in order."""
    services.store.jobs.get(caller.team, job_id)
    events = services.store.events.list(caller.team, job_id, after=after, limit=limit)
    return {"items": [event_document(event) for event in events]}


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
    seen = min(int(last_event_id), 2**62) if last_event_id and last_event_id.isdecimal() else after

    def fetch() -> tuple[bool, list[dict[str, Any]]]:
        # The state first: events of the transaction that ended the job are then certain to be in the list.
        over = services.store.jobs.get(caller.team, job_id).state in states.TERMINAL
        events = services.store.events.list(caller.team, job_id, after=seen, limit=_EVENTS_AT_ONCE)
        return over, [event_document(event) for event in events]

    asked = anyio.current_time()
    while not services.stopping.is_set():
        if anyio.current_time() - asked > _ASK_AGAIN_S:
            if await run_in_threadpool(caller_of, request) is None:
                return
            asked = anyio.current_time()
        over, events = await run_in_threadpool(fetch)
        for event in events:
            seen = event["seq"]
            yield ServerSentEvent(data=event, event=event["type"], id=str(seen))
        if over and len(events) < _EVENTS_AT_ONCE:
            return
        if not events:
            await anyio.sleep(_STREAM_POLL_S)
