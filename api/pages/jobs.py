"""Jobs: the list with a form for another one, and each job's own page."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from ulid import ULID

from allocator.base.access import SUBMIT
from allocator.base.errors import InvalidInput, NotFound, RankallocError
from allocator.base.references import local_models
from allocator.jobs.document import event_document, job_document, job_documents
from allocator.jobs.submit import RETRIED
from allocator.report.document import REPORT_SCHEMA, Report
from allocator.stages.kinds import SEQUENCES
from allocator.store import states
from api.pages import forms
from api.pages.job_fields import OPTIONS
from api.pages.outlook import outlook
from api.routes import artifacts
from api.routes import jobs as api
from api.web import example
from api.web.addresses import address
from api.web.render import HEADERS, REPORT_CSP, full_ranks, page
from api.web.services import Caller, CallerDep, Services, ServicesDep, SubmitDep, SubmitTeamDep

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_EVENTS = 300
"""The newest of them; the rest is in the API."""
_TAIL = 12
_LARGEST_REPORT = 4 << 20


@router.get("/", response_class=HTMLResponse)
def job_list(
    services: ServicesDep,
    caller: CallerDep,
    state: str = "",
    model: Annotated[str, Query(max_length=300)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """Jobs, newest first, and the form."""
    return _list(services, caller, state=state, model=model.strip(), cursor=cursor, form={}, wrong={})


def _list(
    services: Services,
    caller: Caller,
    *,
    form: forms.Form,
    wrong: dict[str, str],
    state: str = "",
    model: str = "",
    cursor: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    if state and state not in states.STATES:
        raise InvalidInput.of("state", state[:40], " | ".join(states.STATES), "one of")
    stored = services.store.jobs.find(
        caller.team, state=state or None, model=model or None, limit=_ON_A_PAGE, cursor=cursor
    )
    models = model_names(services)
    return page(
        "jobs.html",
        status=status,
        jobs=job_documents(services.store, stored.items),
        next_cursor=stored.next_cursor,
        first_page=cursor is None,
        state=state,
        model=model,
        states=states.STATES,
        kinds=SEQUENCES,
        options=[field for field in OPTIONS.values() if field.name != "plan" or not forms.only(form, "plan")],
        models=models,
        example=example.MODELS[0] if example.MODELS[0] in models else None,
        example_budgets="\n".join(example.BUDGETS),
        may_submit=caller.may(SUBMIT),
        form={name: "\n".join(values) for name, values in form.items()},
        wrong=wrong,
        idempotency_key=forms.only(form, "idempotency_key") or str(ULID()),
    )


def model_names(services: Services) -> list[str]:
    """References of the models in the service's own folders."""
    return [f"local:{name}" for name in local_models(services.settings)]


@router.post("/jobs", response_class=HTMLResponse)
def submit(form: forms.FormDep, services: ServicesDep, caller: SubmitDep) -> Response:
    """The form's job; sent twice, it is one job."""
    try:
        body = forms.job_request(form)
        key = forms.only(form, "idempotency_key")[:255] or None
        job = api.submit_job(body, services, caller, Response(), idempotency_key=key)
    except RankallocError as error:
        named = isinstance(error, NotFound) and error.fields  # something that a field names
        if error.status != 422 and not named:
            raise
        return _list(services, caller, form=form, wrong=forms.messages(error), status=422)
    return RedirectResponse(address(f"/jobs/{job.id}"), status_code=303)


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(
    job_id: str, services: ServicesDep, caller: CallerDep, after: Annotated[int, Query(ge=0, le=2**53)] = 0
) -> HTMLResponse:
    """One job: where it stands, what happened (since event ``after``), what came out."""
    store = services.store
    job = store.jobs.get(caller.team, job_id)
    latest = store.events.list(caller.team, job.id, after=max(job.last_seq - _EVENTS, after))
    events = [event_document(event) for event in latest]
    report = _report(services, caller, job.id)
    plan = store.plans.get(caller.team, job.plan_digest) if report and job.plan_digest else None
    document = job_document(store, job)
    return page(
        "job.html",
        job=document,
        outlook=outlook(services, caller.team, job, document),
        may_submit=caller.may(SUBMIT),
        over=job.state in states.TERMINAL,
        may_retry=caller.may(SUBMIT) and job.state in RETRIED and not job.inline,
        events=events,
        tail=events[-_TAIL:] if job.error else [],
        artifacts=artifacts.list_artifacts(job.id, services, caller)["items"],
        report=report,
        full=full_ranks(plan.model.geometry) if plan else None,
    )


def _report(services: Services, caller: Caller, job_id: str) -> Report | None:
    """The job's ``report.json``, where it has one and the file is still there."""
    try:
        row, path = artifacts.stored_file(services, caller, job_id, "report.json")
    except NotFound:
        return None
    document = json.loads(path.read_bytes()) if row["size"] <= _LARGEST_REPORT else {}
    return Report.stored(document) if document.get("schema") == REPORT_SCHEMA else None


@router.get("/jobs/{job_id}/report", response_class=HTMLResponse)
def report_page(job_id: str, services: ServicesDep, caller: CallerDep) -> FileResponse:
    """The job's ``report.html`` as it was written, in a sandbox."""
    _, path = artifacts.stored_file(services, caller, job_id, "report.html")
    headers = {**HEADERS, "Content-Security-Policy": REPORT_CSP}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


@router.post("/jobs/{job_id}/cancel", response_class=HTMLResponse)
def cancel(job_id: str, team: SubmitTeamDep) -> Response:
    """Ask for the job's end, and show the job again."""
    return RedirectResponse(address(f"/jobs/{team.jobs.cancel(job_id).id}"), status_code=303)


@router.post("/jobs/{job_id}/retry", response_class=HTMLResponse)
def retry(job_id: str, services: ServicesDep, caller: SubmitDep) -> Response:
    """Submit a job that failed, crashed or was cancelled again, and show the new one."""
    job = api.retry_job(job_id, services, caller, Response())
    return RedirectResponse(address(f"/jobs/{job.id}"), status_code=303)
