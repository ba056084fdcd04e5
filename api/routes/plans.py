"""Plans: solved at once from a stored profile, listed, compared."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from allocator.options import MOST_STATES
from api.etags import IMMUTABLE, conditional_json
from api.schemas import Explanation, MeasurementList, PlanPage, PlanRequest
from api.services import CallerDep, ServicesDep, stored_table

router = APIRouter(prefix="/v1/plans", tags=["plans"])

Digest = Annotated[str, Path(max_length=128)]


@router.post("", status_code=201)
def create_plan(
    body: PlanRequest, services: ServicesDep, caller: CallerDep, response: Response
) -> dict[str, Any]:
    """Solve for the least predicted loss under all budgets. 422 `budget_infeasible` says what could be
    reached.
    """
    # The solver and its numerics take a moment to import, which most requests need not wait for.
    from allocator.planning import plan_from_profile

    profile = services.store.profiles.get(caller.team, body.profile_key)
    plan = plan_from_profile(
        profile,
        body.budgets,
        allocation=body.allocation,
        constraints=body.constraints.given() if body.constraints else None,
        latency=stored_table(services, caller, body.latency_table),
        program_solver=body.program_solver or "highs",
        most_states=MOST_STATES if body.most_states is None else body.most_states,
        created_by=caller.name,
    )
    services.store.plans.put(caller.team, plan["digest"], plan, created_by=caller.name)
    response.headers["Location"] = f"/v1/plans/{plan['digest']}"
    response.headers["ETag"] = f'"{plan["digest"]}"'
    return plan


@router.get("", response_model=PlanPage)
def list_plans(
    services: ServicesDep,
    caller: CallerDep,
    model: Annotated[str | None, Query(max_length=300)] = None,
    profile_key: Annotated[str | None, Query(max_length=128)] = None,
    weights_sha256: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Stored plans, newest first."""
    page = services.store.plans.find(
        caller.team,
        model=model,
        profile_key=profile_key,
        weights_sha256=weights_sha256,
        limit=limit,
        cursor=cursor,
    )
    return {"items": page.items, "next_cursor": page.next_cursor}


@router.get("/{digest}")
def get_plan(digest: Digest, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """A plan. It never changes; what jobs measured on it is listed beside it."""
    document = services.store.plans.get(caller.team, digest)
    return conditional_json(request, document, tag=digest, cache=IMMUTABLE)


@router.get("/{digest}/explanation", response_model=Explanation)
def get_explanation(digest: Digest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Why every component kept or lost rank: its next steps against what the budgets are worth."""
    from allocator.explain import explain

    plan = services.store.plans.get(caller.team, digest)
    return explain(plan, services.store.profiles.get(caller.team, plan["profile_key"]))


@router.get("/{digest}/measurements", response_model=MeasurementList)
def get_measurements(digest: Digest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """What jobs measured after applying this plan, oldest first."""
    services.store.plans.get(caller.team, digest)
    return {"items": services.store.plans.measurements(caller.team, digest)}


@router.get("/{a}/diff/{b}")
def diff(a: Digest, b: Digest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """What changes from plan `a` to plan `b`."""
    from allocator.differences import diff_plans

    store = services.store
    return diff_plans(store.plans.get(caller.team, a), store.plans.get(caller.team, b))
