"""The plan workshop: budgets and constraints as sliders over a stored profile, and the plan they lead to.

The server alone reads the form and draws its answer. Without JavaScript the form is sent and the page comes back; with it the
form is sent at every move and the answer is put in place.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from allocator.base.access import allows
from allocator.base.errors import InvalidInput, RankallocError
from allocator.plan.ask.budgets import OPTIONS, WORDS
from allocator.plan.model.latency import LatencyTable, table_of
from api.pages import forms
from api.pages.render import full_ranks, page
from api.pages.workshop_state import SLIDERS, State
from api.routes import plans as api
from api.services import Caller, CallerDep, Services, ServicesDep, SubmitDep

router = APIRouter(include_in_schema=False)


@router.get("/workshop", response_class=HTMLResponse)
async def workshop(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The form and its answer."""
    if not request.query_params.get("profile"):
        found = await run_in_threadpool(services.store.profiles.find, caller.team)
        return page("workshop_start.html", profiles=found.items)
    return await services.apart(partial(_page, request, services, caller))


def _page(request: Request, services: Services, caller: Caller) -> HTMLResponse:
    state = _state(request)
    return page(
        "workshop.html",
        titles=SLIDERS,
        options=OPTIONS,
        words=WORDS,
        profile=services.measured(caller.team, state.profile).document,
        may_submit=allows(caller.scope, "submit"),
        **_answer(state, request, services, caller),
    )


@router.get("/workshop/answer", response_class=HTMLResponse)
async def answer(request: Request, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """The part of the page that answers the form: the plan, or why there is none, and the commands that make it."""
    made = partial(_answer, _state(request), request, services, caller)
    return page("answer.html", **await services.apart(made))


@router.post("/workshop/plans", response_class=HTMLResponse)
async def save(form: forms.FormDep, services: ServicesDep, caller: SubmitDep) -> Response:
    """Store the plan of the form, and show it."""
    state = State.of(form)

    def stored() -> dict[str, Any]:
        times = _times(state, services, caller)
        return api.solved(state.request(store=True), services, caller, latency=times)

    plan = await services.apart(stored)
    return RedirectResponse(f"/plans/{plan['digest']}", status_code=303)


def _state(request: Request) -> State:
    query = request.query_params
    return State.of({name: query.getlist(name) for name in query})


def _times(state: State, services: Services, caller: Caller) -> LatencyTable | None:
    """The latency table in the plan that the state names. Raises NotFound."""
    return table_of(services.store.plans.get(caller.team, state.times)) if state.times else None


def _answer(state: State, request: Request, services: Services, caller: Caller) -> dict[str, Any]:
    """What ``answer.html`` shows of a state."""
    geometry = services.measured(caller.team, state.profile).document["model"]["geometry"]
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
        "full": full_ranks(geometry),
        "commands": state.commands(str(request.base_url), times.digest if times else None),
        "times": times,
        "frontier": _frontier(state) if plan else "",
    }


def _with_ways_out(state: State, problem: dict[str, Any]) -> dict[str, Any]:
    """Each budget that cannot be met with the address of the state in which it is raised to what can."""
    rows = [
        each | {"address": state.raised(each["metric"], each["limit"], each["minimum"]).address()}
        for each in problem.get("achievable", [])
    ]
    return problem | {"achievable": rows}


def _frontier(state: State) -> str:
    """The query of the frontier's picture; empty where the options of its metric cannot be read."""
    try:
        return state.frontier()
    except InvalidInput:
        return ""
