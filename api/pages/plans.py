"""Plans: the list, each plan, and what changes from one to another."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse
from ulid import ULID

from allocator.base.access import SUBMIT
from allocator.base.errors import Conflict, InvalidInput, NotFound
from allocator.plan.ask.least import Least
from allocator.plan.documents.explanation import Explanation
from api.pages.jobs import model_names
from api.pages.workshop_state import State
from api.web.addresses import address
from api.web.render import full_ranks, page
from api.web.services import CallerDep, ServicesDep

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 25
"""Every row reads its whole document."""


@router.get("/plans", response_class=HTMLResponse)
def plan_list(
    services: ServicesDep,
    caller: CallerDep,
    model: Annotated[str, Query(max_length=300)] = "",
    profile_key: Annotated[str, Query(max_length=128)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """Stored plans, newest first, two of which can be compared."""
    plans = services.store.plans
    stored = plans.find(
        caller.team,
        model=model.strip() or None,
        profile_key=profile_key.strip() or None,
        limit=_ON_A_PAGE,
        cursor=cursor,
    )
    rows = [{**summary, "plan": plans.document(caller.team, summary["digest"])} for summary in stored.items]
    return page(
        "plans.html",
        plans=rows,
        next_cursor=stored.next_cursor,
        model=model.strip(),
        profile_key=profile_key.strip(),
    )


@router.get("/plans/compare")
def compare(
    a: Annotated[str, Query(max_length=128)] = "", b: Annotated[str, Query(max_length=128)] = ""
) -> RedirectResponse:
    """To the difference of two chosen plans."""
    for name, digest in (("a", a), ("b", b)):
        if not digest:
            raise InvalidInput.of(name, "nothing", "the digest of a stored plan", "choose")
    return RedirectResponse(address(f"/plans/{quote(a, safe='')}/diff/{quote(b, safe='')}"), status_code=303)


@router.get("/plans/{name}", response_class=HTMLResponse)
def plan_page(name: str, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """One plan, by its digest, the digest's first characters or ``alias:<name>``: ranks, budgets and their prices, what is
    proved, why each component has its rank, what people wrote beside it and where it comes from.
    """
    plans, team = services.store.plans, services.team(caller)
    digest = plans.resolve(caller.team, name)
    plan = plans.get(caller.team, digest)
    explained: Explanation | None = None  # of a plan that came without its profile
    with suppress(NotFound, Conflict):
        explained = team.plans.explanation(digest)
    summary = plans.summary(caller.team, digest)
    may_submit = caller.may(SUBMIT)
    others = plans.find(caller.team, weights_sha256=plan.model.weights_sha256, limit=_ON_A_PAGE)
    return page(
        "plan.html",
        plan=plan,
        summary=summary,
        least=Least.of(plan.objective),
        full=full_ranks(plan.model.geometry),
        explained=explained,
        measured=plans.measurements(caller.team, digest),
        notes=team.plans.notes(digest),
        lineage=team.plans.lineage(digest),
        others=[other for other in others.items if other["digest"] != digest],
        workshop=State.of_plan(plan).address() if explained else None,
        models=model_names(services),
        may_submit=may_submit,
        may_share=may_submit and summary["shared_by"] is None,
        shares=team.shares.page(direction="given", kind="plan", key=digest).items,
        idempotency_key=str(ULID()),
    )


@router.get("/plans/{a}/diff/{b}", response_class=HTMLResponse)
def diff_page(a: str, b: str, services: ServicesDep, caller: CallerDep) -> HTMLResponse:
    """Changes from one plan to another."""
    plans = services.store.plans
    before, after = (plans.get(caller.team, plans.resolve(caller.team, name)) for name in (a, b))
    return page(
        "diff.html",
        before=before,
        after=after,
        diff=services.team(caller).plans.diff(a, b),
        full=full_ranks(after.model.geometry),
    )
