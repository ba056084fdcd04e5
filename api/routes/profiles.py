"""Profiles: what has been measured, and its curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from api.etags import IMMUTABLE, conditional_json
from api.schemas import ProfilePage
from api.services import CallerDep, ServicesDep

router = APIRouter(prefix="/v1/profiles", tags=["profiles"])

ProfileKey = Annotated[str, Path(max_length=128)]
MOST_POINTS = 200
_FRONTIER_S = 20.0
_COLUMNS = ("layer", "component", "rank", "analytic", "loss_nats", "measured_nats", "stderr_nats")


@router.get("", response_model=ProfilePage)
def list_profiles(
    services: ServicesDep,
    caller: CallerDep,
    model: Annotated[str | None, Query(max_length=300)] = None,
    weights_sha256: Annotated[str | None, Query(max_length=64)] = None,
    calibration: Annotated[str | None, Query(max_length=64, description="The text's sha256.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Stored profiles, newest first."""
    page = services.store.profiles.find(
        caller.team,
        model=model,
        weights_sha256=weights_sha256,
        calibration_sha256=calibration,
        limit=limit,
        cursor=cursor,
    )
    return {"items": page.items, "next_cursor": page.next_cursor}


@router.get("/{key}")
def get_profile(key: ProfileKey, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """The whole profile. It never changes."""
    document = services.store.profiles.get(caller.team, key)
    return conditional_json(request, document, tag=key, cache=IMMUTABLE)


@router.get("/{key}/curves", responses={200: {"content": {"text/csv": {}}}})
def get_curves(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    request: Request,
    component: Literal["qk", "ov", "mlp"] | None = None,
    layer: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    format: Literal["json", "csv"] | None = None,
) -> Response:
    """Loss against rank per layer and component; as CSV with `format=csv` or `Accept: text/csv`."""
    document = services.store.profiles.get(caller.team, key)
    curves = [
        curve
        for curve in document["curves"]
        if component in (None, curve["component"]) and layer in (None, curve["layer"])
    ]
    as_csv = format == "csv" or (format is None and "text/csv" in request.headers.get("accept", ""))
    if not as_csv:
        return conditional_json(
            request, {"profile_key": key, "curves": curves}, tag=f"{key}-{layer}-{component}", cache=IMMUTABLE
        )
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for curve in curves:
        writer.writerows(_rows(curve))
    return Response(
        lines.getvalue(), media_type="text/csv; charset=utf-8", headers={"Cache-Control": IMMUTABLE}
    )


@router.get(
    "/{key}/frontier",
    responses={200: {"content": {"text/csv": {}, "image/svg+xml": {}}}},
    response_model=None,
)
def get_frontier(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    metric: Annotated[list[str], Query(min_length=1, max_length=2, description="Two make a surface.")],
    budget: Annotated[list[str], Query(max_length=16)] = [],  # noqa: B006  # FastAPI copies defaults
    points: Annotated[
        int, Query(ge=2, le=MOST_POINTS, description="Per metric; at most 20 of a surface.")
    ] = 20,
    format: Literal["json", "csv", "svg"] = "json",
) -> Response | dict[str, Any]:
    """The least predicted loss at every limit of a metric, other budgets fixed. What is not proven after 20 s says so."""
    # The solver and its numerics take a moment to import, which most requests need not wait for.
    from allocator.frontier import frontier_csv, frontier_of
    from allocator.report.frontier_figure import frontier_svg

    profile = services.store.profiles.get(caller.team, key)
    found = frontier_of(profile, metric, budgets=budget, points=points, time_limit_s=_FRONTIER_S)
    if format == "json":
        return found
    if format == "csv":
        return Response(frontier_csv(found), media_type="text/csv; charset=utf-8")
    return Response(frontier_svg(found), media_type="image/svg+xml")


def _rows(curve: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One row per rank; the measured columns are empty where the loss was interpolated."""
    measured = {point["rank"]: point for point in curve["measured"]}
    for rank, analytic, loss_nats in zip(curve["ranks"], curve["analytic"], curve["loss_nats"], strict=True):
        point = measured.get(rank, {})
        found = (point.get("loss_nats", ""), point.get("stderr_nats", ""))
        yield (curve["layer"], curve["component"], rank, analytic, loss_nats, *found)
