"""Plans: solved at once from a stored profile, listed, compared."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import TypeAdapter

from allocator.base.access import SUBMIT
from allocator.base.kinds import TRANSFER
from allocator.jobs.document import JobDocument
from allocator.plan.documents.difference import PlanDiff
from allocator.plan.documents.explanation import Explanation
from allocator.plan.documents.plan import Plan
from allocator.plan.metrics.costs import LARGEST_BATCH, LARGEST_CONTEXT
from allocator.plan.model.latency import LatencyTable
from allocator.stages.stored_plan import refuse_other_geometry
from api.routes.jobs import IdempotencyKey, submit_job
from api.schemas.plans import MeasurementList, PlanPage, TransferRequest
from api.schemas.requests import JobRequest, PlanRequest
from api.web.addresses import address
from api.web.etags import cache_of, conditional, rendered_json, tag_of
from api.web.services import Caller, CallerDep, Services, ServicesDep, SubmitDep, TeamDep

router = APIRouter(prefix="/v1/plans", tags=["plans"])

Digest = Annotated[
    str,
    Path(
        max_length=128,
        description="A plan's digest, its first characters (at least 6) or `alias:<name>`.",
        examples=["alias:prod"],
    ),
]


Loss = Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="nats/token.")]
Limits = Annotated[int | None, Query(ge=0, le=2**53, description="In the metric's unit.")]


_DOCUMENT = TypeAdapter(dict[str, Any])
_SOLVE_S = 20.0
"""The longest time that somebody waits and holds up others. Nearly every program takes less than a second; the rest is answered
with its gap, as "feasible".
"""


@router.post(
    "",
    status_code=201,
    response_model=Plan,
    responses={200: {"model": Plan, "description": "Solved and, as asked, not stored"}},
)
async def create_plan(body: PlanRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """Solve for the least predicted loss under all budgets, or for the least of a metric at a predicted loss. 422
    `budget_infeasible` says what could be reached. With `"store": false` the plan is answered with 200 and not kept; to keep
    it takes scope `submit`. After 20 s the best plan so far is answered, and its `certificate` has the remaining gap; a job of
    kind `plan` takes its time.
    """

    def answer() -> Response:
        plan = solved(body, services, caller)
        # Written here: the event loop, which all other requests wait for, is no place to do it.
        content = _DOCUMENT.dump_json(plan.document)
        if not body.store:
            return Response(content, media_type="application/json")
        headers = {"Location": address(f"/v1/plans/{plan.digest}"), "ETag": f'"{plan.digest}"'}
        return Response(content, status_code=201, media_type="application/json", headers=headers)

    return await services.apart(answer)


def solved(
    body: PlanRequest, services: Services, caller: Caller, *, latency: LatencyTable | None = None
) -> Plan:
    """The plan that is asked for, stored if that is asked for too.

    Args:
        latency: the table to count times in; default: the stored one that ``body`` names.

    Raises:
        Forbidden: to be stored, by somebody who only reads.
        BudgetInfeasible: no ranks meet the budgets.
    """
    if body.store:
        caller.require(SUBMIT)
    plan = services.team(caller).plans.create(
        body.profile_key,
        body.budgets,
        least=body.least,
        max_loss_nats=body.max_loss_nats,
        allocation=body.allocation,
        constraints=body.constraints.by_kind() if body.constraints else None,
        latency_table=latency or body.latency_table,
        bits=body.bits,
        keep=body.store,
        time_limit_s=_SOLVE_S,
    )
    if plan.certificate is not None:
        services.metrics.solve_seconds.observe(plan.certificate.time_s)
    return plan


@router.get("", response_model=PlanPage)
def list_plans(
    team: TeamDep,
    model: Annotated[str | None, Query(max_length=300)] = None,
    profile_key: Annotated[str | None, Query(max_length=128)] = None,
    weights_sha256: Annotated[str | None, Query(max_length=64)] = None,
    metric: Annotated[
        str | None,
        Query(
            max_length=100, description="With a budget on it: `kv_bytes_per_token`, `memory@context=4096`."
        ),
    ] = None,
    min_limit: Limits = None,
    max_limit: Limits = None,
    min_loss_nats: Loss = None,
    max_loss_nats: Loss = None,
    label: Annotated[str | None, Query(max_length=80)] = None,
    alias: Annotated[str | None, Query(max_length=80, description="What this alias points at.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Stored plans, newest first, that meet every condition given."""
    page = team.plans.page(
        model=model,
        profile_key=profile_key,
        weights_sha256=weights_sha256,
        metric=metric,
        min_limit=min_limit,
        max_limit=max_limit,
        min_loss_nats=min_loss_nats,
        max_loss_nats=max_loss_nats,
        label=label,
        alias=alias,
        limit=limit,
        cursor=cursor,
    )
    return vars(page)


@router.get("/{digest}", response_model=Plan)
def get_plan(digest: Digest, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """A plan. It never changes: under its whole digest it may be cached for ever. What jobs measured is listed beside it."""
    plans = services.store.plans
    full_digest = plans.resolve(caller.team, digest)
    row = plans.locate(caller.team, full_digest)
    tag = tag_of(row, full_digest)
    rendered = services.answers.get(
        (row, full_digest, "plan"),
        lambda: rendered_json(plans.document(caller.team, full_digest, row=row), tag=tag),
    )
    # An alias or the beginning of a digest may come to mean another plan.
    cache = cache_of(row) if digest == full_digest else "no-cache"
    response = conditional(request, rendered, cache=cache)
    response.headers["Content-Location"] = address(f"/v1/plans/{full_digest}")
    return response


@router.get("/{digest}/explanation", response_model=Explanation)
def get_explanation(digest: Digest, team: TeamDep) -> Explanation:
    """Why every component has its rank: its next steps against what the budgets are worth. 409 where another team
    shares the plan without its profile.
    """
    return team.plans.explanation(digest)


@router.get("/{digest}/measurements", response_model=MeasurementList)
def get_measurements(digest: Digest, team: TeamDep) -> dict[str, Any]:
    """Measurements of jobs that applied this plan, oldest first."""
    return {"items": team.plans.measurements(digest)}


@router.get("/{a}/diff/{b}", response_model=PlanDiff)
def diff(
    a: Digest,
    b: Digest,
    team: TeamDep,
    batch: Annotated[
        int | None, Query(ge=1, le=LARGEST_BATCH, description="Sequences; needs context.")
    ] = None,
    context: Annotated[
        int | None, Query(ge=1, le=LARGEST_CONTEXT, description="Tokens each, for the cache in total.")
    ] = None,
) -> PlanDiff:
    """Changes from plan `a` to plan `b`, component by component, in numbers and in words."""
    return team.plans.diff(a, b, batch=batch, context=context)


@router.post("/{digest}/transfer", status_code=202, response_model=JobDocument)
def transfer(
    digest: Digest,
    body: TransferRequest,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDocument:
    """Ask by a few probes whether the plan holds for a fine-tune. If it does, the job's `plan` is one for the fine-tune, with
    a digest of its own, which a job of kind compress applies. 409 for a model that is known to have another geometry.
    """
    plans = services.store.plans
    plan = plans.get(caller.team, plans.resolve(caller.team, digest))
    refuse_other_geometry(services.store, caller.team, plan, body.model)
    request = JobRequest(
        kind=TRANSFER,
        model=body.model,
        calibration=body.calibration,
        text_column=body.text_column,
        profile=plan.profile_key,
        plan=plan.digest,
    )
    return submit_job(request, services, caller, response, idempotency_key)
