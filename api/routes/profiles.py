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


def _rows(curve: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One row per rank; the measured columns are empty where the loss was interpolated."""
    measured = {point["rank"]: point for point in curve["measured"]}
    for rank, analytic, loss_nats in zip(curve["ranks"], curve["analytic"], curve["loss_nats"], strict=True):
        point = measured.get(rank, {})
        found = (point.get("loss_nats", ""), point.get("stderr_nats", ""))
        yield (curve["layer"], curve["component"], rank, analytic, loss_nats, *found)
