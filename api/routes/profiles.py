"""Profiles: what has been measured, and its curves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import StringConstraints
from starlette.concurrency import run_in_threadpool

from allocator.base.errors import InvalidInput
from allocator.plan.documents.frontier import Frontier
from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import Sensitivity
from allocator.plan.metrics.params import BlockParams
from allocator.plan.model.dtypes import WIDTHS
from allocator.plan.model.geometry import Component
from allocator.store.profiles import SHORTEST_PREFIX
from api.schemas.answers import ImportedProfile, ProfilePage
from api.schemas.requests import NO_BITS
from api.web.addresses import address
from api.web.etags import (
    BINARY,
    SVG,
    SVG_HEADERS,
    Rendered,
    cache_of,
    conditional,
    conditional_json,
    rendered_bytes,
    rendered_json,
    tag_of,
)
from api.web.profile_answers import profile_answer
from api.web.services import BodyDep, CallerDep, ServicesDep, SubmitTeamDep, TeamDep

router = APIRouter(prefix="/v1/profiles", tags=["profiles"])

ProfileKey = Annotated[str, Path(max_length=128)]
LayerQuery = Annotated[int | None, Query(ge=0, le=10_000)]
RemoveQuery = Annotated[
    float, Query(gt=0, lt=1, description="The fraction of a component's own rank that goes.")
]
ConstraintQuery = Annotated[
    list[Annotated[str, StringConstraints(max_length=100)]],
    Query(max_length=1000, description="As in the `constraints` of a plan's request."),
]
if TYPE_CHECKING:
    Width: TypeAlias = str
else:
    Width = Literal[(*map(str, WIDTHS), NO_BITS)]
_GZIP = "application/gzip"
MOST_POINTS = 200
FRONTIER_S = 20.0


@router.get("", response_model=ProfilePage)
def list_profiles(
    team: TeamDep,
    model: Annotated[str | None, Query(max_length=300)] = None,
    weights_sha256: Annotated[str | None, Query(max_length=64)] = None,
    calibration: Annotated[str | None, Query(max_length=64, description="The text's sha256.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Stored profiles, newest first."""
    page = team.profiles.page(
        model=model, weights_sha256=weights_sha256, calibration=calibration, limit=limit, cursor=cursor
    )
    return vars(page)


@router.post(
    "",
    status_code=201,
    response_model=ImportedProfile,
    responses={200: {"model": ImportedProfile, "description": "It was there already"}},
    openapi_extra={"requestBody": {"required": True, "content": {_GZIP: BINARY}}},
)
def import_profile(body: BodyDep, team: SubmitTeamDep, response: Response) -> dict[str, Any]:
    """Take in a file that `GET /v1/profiles/{key}/export` gave, here or elsewhere. It gets a key of its own, so that no job
    reuses it as if it had been measured here.
    """
    imported = team.profiles.import_(body)
    if not imported["stored"]:
        response.status_code = 200
    response.headers["Location"] = address(f"/v1/profiles/{imported['key']}")
    return imported


@router.get("/{key}", responses={200: {"model": Profile}})
def get_profile(key: ProfileKey, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """The whole profile, which never changes, by its key or the key's first characters, at least 6."""
    profiles = services.store.profiles
    full_key = key if len(key) < SHORTEST_PREFIX else profiles.resolve(caller.team, key)
    row = profiles.locate(caller.team, full_key)
    tag = tag_of(row, full_key)
    rendered = services.answers.get(
        (row, full_key, "profile"),
        lambda: rendered_json(profiles.document(caller.team, full_key, row=row), tag=tag),
    )
    return conditional(request, rendered, cache=cache_of(row) if full_key == key else "no-cache")


@router.get("/{key}/curves", responses={200: {"content": {"text/csv": {}}}})
def get_curves(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    request: Request,
    component: Component | None = None,
    layer: LayerQuery = None,
    format: Literal["json", "csv"] | None = None,
) -> Response:
    """Loss against rank per layer and component; as CSV with `format=csv` or `Accept: text/csv`."""
    from allocator.plan.queries import curves_csv, select_curves

    row = services.store.profiles.locate(caller.team, key)
    curves = select_curves(services.profile(caller.team, key, row=row), layer=layer, component=component)
    as_csv = format == "csv" or (format is None and "text/csv" in request.headers.get("accept", ""))
    if not as_csv:
        return conditional_json(
            request,
            {"profile_key": key, "curves": [curve.document for curve in curves]},
            tag=f"{key}-{layer}-{component}",
            cache=cache_of(row),
        )
    return Response(
        curves_csv(curves),
        media_type="text/csv; charset=utf-8",
        headers={"Cache-Control": cache_of(row)},
    )


@router.get("/{key}/sensitivity", response_model=Sensitivity)
async def get_sensitivity(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    request: Request,
    remove: RemoveQuery = 0.1,
    metric: Annotated[
        str,
        Query(max_length=100, description="As in a budget: `block_params`, `memory@batch=8,context=4096`."),
    ] = BlockParams.name,
    limit: Annotated[int, Query(ge=1, le=30_000, description="Length of each list.")] = 10,
) -> Response:
    """Which components a cut hurts most and least, and the least loss of that cut on the whole model. No forward pass."""

    def make(profile: Profile) -> Rendered:
        from allocator.plan.queries import sensitivity

        answer = sensitivity(profile, remove=remove, metric=metric, limit=limit)
        return rendered_json(answer.document)

    question = ("sensitivity", remove, metric, limit)
    return conditional(request, await profile_answer(services, caller, key, question, make))


@router.get(
    "/{key}/export",
    response_class=Response,
    responses={200: {"description": "The profile's file", "content": {_GZIP: BINARY}}},
)
async def export_profile(
    key: ProfileKey, services: ServicesDep, caller: CallerDep, request: Request
) -> Response:
    """The profile as one small file, sealed by its content's hash, for `POST /v1/profiles` elsewhere."""

    def make(profile: Profile) -> Rendered:
        from allocator.plan.files import portable

        headers = {"Content-Disposition": f'attachment; filename="{portable.file_name(profile)}"'}
        return rendered_bytes(portable.export_profile(profile), _GZIP, headers)

    return conditional(request, await profile_answer(services, caller, key, ("export",), make))


@router.get(
    "/{key}/frontier",
    responses={200: {"model": Frontier, "content": {"text/csv": {}, "image/svg+xml": {}}}},
    response_model=None,
)
async def get_frontier(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    metric: Annotated[list[str], Query(min_length=1, max_length=2, description="Two make a surface.")],
    budget: Annotated[list[str], Query(max_length=16)] = [],  # noqa: B006  # FastAPI copies defaults
    latency_table: Annotated[
        str | None, Query(max_length=64, description="Key of a stored latency table.")
    ] = None,
    bits: Annotated[
        list[Width],
        Query(
            max_length=2,
            description="Which bits may be used, of those that the profile has measured; default: all of them, `none`: ranks"
            " alone.",
        ),
    ] = [],  # noqa: B006
    points: Annotated[
        int, Query(ge=2, le=MOST_POINTS, description="Per metric; at most 20 of a surface.")
    ] = 20,
    align: ConstraintQuery = [],  # noqa: B006
    min_rank: ConstraintQuery = [],  # noqa: B006
    pin: ConstraintQuery = [],  # noqa: B006
    tie: ConstraintQuery = [],  # noqa: B006
    target: ConstraintQuery = [],  # noqa: B006
    format: Literal["json", "csv", "svg"] = "json",
) -> Response:
    """The least predicted loss at every limit of a metric, other budgets and constraints (as in a plan's request) fixed.
    What is not proven after 20 s says so.
    """
    constraints = {"align": align, "min_rank": min_rank, "pin": pin, "tie": tie, "target": target}
    widths = _widths(bits)
    table = await run_in_threadpool(services.store.latency_tables.table, caller.team, latency_table)

    def make(profile: Profile) -> Rendered:
        from allocator.plan.frontier import frontier_csv, frontier_of
        from allocator.report.figures.frontier import frontier

        document = frontier_of(
            profile,
            metric,
            budgets=budget,
            constraints=constraints,
            points=points,
            latency=table,
            bits=widths,
            time_limit_s=FRONTIER_S,
        )
        if format == "json":
            rendered = rendered_json(document.document)
        elif format == "csv":
            rendered = rendered_bytes(frontier_csv(document).encode(), "text/csv; charset=utf-8")
        else:
            rendered = rendered_bytes(frontier(document).svg().encode(), SVG, SVG_HEADERS)
        # What time did not suffice for may be proven the next time.
        return replace(rendered, lasts=document.proven)

    limits = tuple(map(tuple, (metric, budget, align, min_rank, pin, tie, target, sorted(bits))))
    question = ("frontier", *limits, latency_table, points, format)
    answer = await profile_answer(services, caller, key, question, make)
    return Response(answer.body, media_type=answer.media_type, headers=dict(answer.headers))


def _widths(bits: list[str]) -> list[int] | None:
    """The bits of a query as a plan's request has them. Raises InvalidInput."""
    if NO_BITS in bits:
        if set(bits) != {NO_BITS}:
            raise InvalidInput.of("bits", ", ".join(bits), f"{NO_BITS} alone, or widths", "give")
        return []
    return [int(width) for width in bits] or None
