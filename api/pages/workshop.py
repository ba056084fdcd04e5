"""The plan workshop: budgets and constraints as sliders over a stored profile, and the plan they lead to.

The server alone reads the form and draws its answer. Without JavaScript the form is sent and the page comes back; with it the
form is sent at every move and the answer is put in place.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from ulid import ULID

from allocator.base.access import SUBMIT
from allocator.base.errors import RankallocError
from allocator.base.kinds import COMPRESS
from allocator.plan.documents.frontier import Frontier
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.kind import WORDS
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.latency import LatencyTable
from allocator.report.figures.figure import Figure
from allocator.report.figures.frontier import frontier
from api.pages import forms
from api.pages import jobs as job_pages
from api.pages.workshop_state import SLIDERS, State
from api.routes import plans as api
from api.routes.profiles import FRONTIER_S
from api.web.addresses import address
from api.web.etags import SVG, SVG_HEADERS, Rendered, rendered_json
from api.web.profile_answers import profile_answer
from api.web.render import full_ranks, page
from api.web.services import Caller, CallerDep, Services, ServicesDep, SubmitDep

router = APIRouter(include_in_schema=False)

_POINTS = 24
"""Points of the frontier that is drawn."""


@router.get("/workshop", response_class=HTMLResponse)
async def workshop(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The form and its answer."""
    if not request.query_params.get("profile"):
        stored = await run_in_threadpool(services.store.profiles.find, caller.team)
        return page("workshop_start.html", profiles=stored.items)
    return await services.apart(partial(_page, request, services, caller))


def _page(request: Request, services: Services, caller: Caller) -> HTMLResponse:
    return page(
        "workshop.html",
        titles=SLIDERS,
        options={metric: METRICS[metric].options for metric in SLIDERS},
        words=WORDS,
        may_submit=caller.may(SUBMIT),
        once=str(ULID()),
        **_answer(request, services, caller),
    )


@router.get("/workshop/answer", response_class=HTMLResponse)
async def answer(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The part of the page that answers the form: the plan, or why there is none, and the commands that make it."""
    return page("answer.html", **await services.apart(partial(_answer, request, services, caller)))


@router.get("/workshop/frontier", response_class=HTMLResponse)
async def frontier_part(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The part of the page that shows the frontier, or why there is none."""
    try:
        return page("frontier.html", figure=await _frontier(request, services, caller))
    except RankallocError as error:
        if error.status != 422:
            raise
        return page("frontier.html", figure=None, problem=error.detail)


@router.get("/workshop/frontier.svg")
async def frontier_picture(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """The frontier as a picture, for where no script runs."""
    figure = await _frontier(request, services, caller)
    return Response(figure.svg(), media_type=SVG, headers=SVG_HEADERS)


@router.post("/workshop/plans", response_class=HTMLResponse)
async def save(form: forms.FormDep, services: ServicesDep, caller: SubmitDep) -> Response:
    """Store the plan of the form, and show it, or where it is shared."""
    plan = await services.apart(partial(_stored, form, services, caller))
    place = "#share" if forms.only(form, "then") == "share" else ""
    return RedirectResponse(address(f"/plans/{plan.digest}{place}"), status_code=303)


@router.post("/workshop/jobs", response_class=HTMLResponse)
async def compress(form: forms.FormDep, services: ServicesDep, caller: SubmitDep) -> Response:
    """Store the plan of the form and submit the job that applies it; what is wrong with that is shown in the jobs' own form."""
    plan = await services.apart(partial(_stored, form, services, caller))
    job = {"kind": [COMPRESS], "plan": [plan.digest], "model": [plan.model.reference]}
    if exports := form.get("export"):
        job["export"] = exports
    if once := forms.only(form, "once"):
        # Another plan, or other exports, from the same page are another job.
        job["idempotency_key"] = [":".join([once[:64], plan.digest, *sorted(exports or [])])[:255]]
    return await run_in_threadpool(job_pages.submit, job, services, caller)


def _stored(form: forms.Form, services: Services, caller: Caller) -> Plan:
    """The plan of the form, stored."""
    state = State.of(form)
    times = _times(state, services, caller)
    return api.solved(state.request(store=True), services, caller, latency=times)


def _state(request: Request) -> State:
    query = request.query_params
    return State.of({name: query.getlist(name) for name in query})


def _times(state: State, services: Services, caller: Caller) -> LatencyTable | None:
    """The latency table in the plan that the state names. Raises NotFound."""
    return services.store.plans.get(caller.team, state.times).latency_table if state.times else None


def _answer(request: Request, services: Services, caller: Caller) -> dict[str, Any]:
    """The context of ``answer.html`` for the form."""
    state = _state(request)
    profile = services.profile(caller.team, state.profile)
    state = state.beside(profile)
    times = _times(state, services, caller)
    plan, problem = None, None
    try:
        plan = api.solved(state.request(store=False), services, caller, latency=times)
    except RankallocError as error:
        if error.status != 422:
            raise
        problem = _with_ways_out(state, error.document())
    return {
        "state": state,
        "plan": plan,
        "problem": problem,
        "profile": profile,
        "full": full_ranks(profile.model.geometry),
        "commands": state.commands(str(request.base_url), times.digest if times else None),
        "times": times,
    }


def _with_ways_out(state: State, problem: dict[str, Any]) -> dict[str, Any]:
    """Each budget that cannot be met with the address of the state in which it is raised to what can."""
    rows = [
        row | {"address": state.raised(row["metric"], row["limit"], row["minimum"]).address()}
        for row in problem.get("achievable", [])
    ]
    return problem | {"achievable": rows}


async def _frontier(request: Request, services: Services, caller: Caller) -> Figure:
    """The frontier of the form's metric, all else as the form says; its own limit is marked. Raises InvalidInput."""
    state = _state(request)
    checked = state.request(store=False)
    label, others, own = state.frontier()
    constraints = state.constraint_lists()
    times = await run_in_threadpool(_times, state, services, caller)

    def make(profile: Profile) -> Rendered:
        from allocator.plan.frontier import frontier_of

        document = frontier_of(
            profile,
            [label],
            budgets=others,
            constraints=constraints,
            points=_POINTS,
            latency=times,
            bits=checked.bits,
            time_limit_s=FRONTIER_S,
        )
        return replace(rendered_json(document.document), lasts=document.proven)

    limits = tuple((kind, *texts) for kind, texts in constraints.items())
    bits = None if checked.bits is None else tuple(checked.bits)
    question = ("workshop", label, *others, limits, bits, times.digest if times else None)
    rendered = await profile_answer(services, caller, state.profile, question, make)
    document = Frontier.stored(json.loads(rendered.body))
    here = None if own is None else own.absolute
    if own is not None and own.fraction is not None:
        here = int(own.fraction * document.dense[0])
    return frontier(document, here=here)
