"""Jobs: submit, list, look, cancel, follow, fetch what they wrote."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from allocator.budgets import parse_budgets
from allocator.errors import FieldError, InvalidInput, NotFound
from allocator.jobs import states, submit
from allocator.jobs.comparable import checked_profile
from allocator.jobs.document import event_document, job_documents
from allocator.references import check_model, text_file
from allocator.store import Job, Store
from api.etags import conditional_json
from api.schemas import ArtifactList, EventList, JobOut, JobPage, JobRequest, JobState
from api.services import Caller, CallerDep, Services, ServicesDep

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_STREAM_POLL_S = 0.2
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
    base = f"/v1/jobs/{job.id}"
    links = {"self": base, "events": f"{base}/events", "stream": f"{base}/events/stream"}
    links["artifacts"] = f"{base}/artifacts"
    if job.state not in states.TERMINAL:
        links["cancel"] = f"{base}/cancel"
    if job.plan_digest:
        links["plan"] = f"/v1/plans/{job.plan_digest}"
    if job.profile_key:
        links["profile"] = f"/v1/profiles/{job.profile_key}"
    return links


_ONLY_FOR = {
    "profile": ("transfer",),
    "plan": ("transfer",),
    "heal": ("compress",),
    "refine": ("plan", "compress"),
    "constraints": ("plan", "compress"),
    "around": ("profile", "plan"),
}
"""Field -> the kinds of jobs that know what to do with it."""


def _check_fields(store: Store, caller: Caller, body: JobRequest) -> None:
    for field, kinds in _ONLY_FOR.items():
        found = getattr(body, field)
        if found is not None and body.kind not in kinds:
            allowed = f"for jobs of kind {' or '.join(kinds)} only"
            raise InvalidInput(
                f"{field}: a job of kind {body.kind} takes none; it is {allowed}",
                fields=[FieldError(field, str(found), allowed)],
            )
    if body.kind == "transfer" and body.profile is None:
        allowed = "the key of a stored profile (GET /v1/profiles lists them)"
        raise InvalidInput(
            f"profile: a job of kind transfer needs {allowed}",
            fields=[FieldError("profile", "nothing", allowed)],
        )
    if body.profile is not None:
        checked_profile(store, caller.team, body.model_dump())
    if body.around is not None:
        store.plans.get(caller.team, body.around)


def _check(services: Services, caller: Caller, body: JobRequest) -> None:
    """Refuse now what would only fail later, naming the field."""
    settings = services.settings
    check_model(settings, body.model)
    if body.budgets or body.kind in ("plan", "compress"):
        parse_budgets(body.budgets)
    _check_fields(services.store, caller, body)
    texts = {"calibration": body.calibration}
    if body.kind == "compress":
        texts["evaluation"] = body.evaluation
    for field, reference in texts.items():
        text_file(settings, field, reference, body.model)


@router.post("", status_code=202, response_model=JobOut)
def submit_job(
    body: JobRequest,
    services: ServicesDep,
    caller: CallerDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Accept a job. It is carried out by a worker; look at `Location` or follow its events."""
    _check(services, caller, body)
    job_id = submit.submit(
        services.store,
        services.settings,
        team=caller.team,
        kind=body.kind,
        request=body.model_dump(exclude={"kind"}, exclude_none=True),
        created_by=caller.name,
        idempotency_key=idempotency_key,
    )
    services.wake()
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    response.headers["Retry-After"] = "1"
    return _document(services.store, services.store.jobs.get(caller.team, job_id))


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
def cancel_job(job_id: JobId, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Ask for the job's end. Repeating it is harmless; 409 for a job that ended otherwise."""
    job = submit.cancel(services.store, team=caller.team, job_id=job_id)
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
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> AsyncIterable[ServerSentEvent]:
    """The same as server-sent events: `id` is the number, `event` the type, `data` the event.

    A browser that reconnects sends `Last-Event-ID` and misses nothing. The stream ends when the job has
    ended.
    """
    seen = min(int(last_event_id), 2**62) if last_event_id and last_event_id.isdecimal() else after

    def fetch() -> tuple[bool, list[dict[str, Any]]]:
        # The state first: events of the transaction that ended the job are then certain to be in the list.
        over = services.store.jobs.get(caller.team, job_id).state in states.TERMINAL
        events = services.store.events.list(caller.team, job_id, after=seen, limit=_EVENTS_AT_ONCE)
        return over, [event_document(event) for event in events]

    while not services.stopping.is_set():
        over, events = await run_in_threadpool(fetch)
        for event in events:
            seen = event["seq"]
            yield ServerSentEvent(data=event, event=event["type"], id=str(seen))
        if over and len(events) < _EVENTS_AT_ONCE:
            return
        if not events:
            await anyio.sleep(_STREAM_POLL_S)


@router.get("/{job_id}/artifacts", response_model=ArtifactList)
def list_artifacts(job_id: JobId, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """The files the job has written so far."""
    services.store.jobs.get(caller.team, job_id)
    found = services.store.artifacts.list(caller.team, job_id)
    base = f"/v1/jobs/{job_id}/artifacts/"
    return {"items": [{**artifact, "href": base + quote(artifact["name"])} for artifact in found]}


@router.get("/{job_id}/artifacts/{name:path}", response_class=FileResponse)
def download_artifact(
    job_id: JobId, name: Annotated[str, Path(max_length=255)], services: ServicesDep, caller: CallerDep
) -> FileResponse:
    """One file. Takes `Range`, so that an interrupted download can go on."""
    # The path comes out of the table; what the caller wrote is only compared with names.
    artifact = services.store.artifacts.get(caller.team, job_id, name)
    path = services.settings.artifacts_dir / artifact["relative_path"]
    if not path.is_file():
        raise NotFound(f"The file {name!r} of job {job_id} has been removed.")
    headers = {"ETag": f'"{artifact["sha256"]}"'}
    return FileResponse(path, filename=name.rpartition("/")[2], headers=headers)
