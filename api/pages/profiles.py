"""Profiles: what has been measured of which model, as a heat map, curves and tables."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from allocator.plan.model.geometry import COMPONENTS
from allocator.report.svg import colour, ink_on
from api.pages.render import full_ranks, page
from api.schemas import Component
from api.services import CallerDep, ServicesDep

router = APIRouter(include_in_schema=False)

REMOVALS = (0.05, 0.1, 0.2, 0.3, 0.5)
_LISTED = 8
_DECADES = 6
"""As in the pictures: how far below the largest loss the colours reach."""


@router.get("/profiles", response_class=HTMLResponse)
def profile_list(
    services: ServicesDep,
    caller: CallerDep,
    model: Annotated[str, Query(max_length=300)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """Stored profiles, newest first."""
    found = services.store.profiles.find(caller.team, model=model.strip() or None, cursor=cursor)
    return page("profiles.html", profiles=found.items, next_cursor=found.next_cursor, model=model.strip())


@router.get("/profiles/{key}", response_class=HTMLResponse)
async def profile_page(
    key: str,
    services: ServicesDep,
    caller: CallerDep,
    remove: Annotated[float, Query(gt=0, lt=1)] = 0.1,
    scale: Literal["log", "linear"] = "log",
    layer: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    component: Component | None = None,
) -> HTMLResponse:
    """One profile; ``remove`` is the share of a component's rank that the tables and the map take away."""
    # The least loss of that cut on the whole model is a program to solve.
    shown = {"remove": remove, "scale": scale, "layer": layer, "component": component}
    return await services.apart(lambda: _page(services.measured(caller.team, key).document, shown))


def _page(profile: dict[str, Any], shown: dict[str, Any]) -> HTMLResponse:
    from allocator.plan.queries import interpolation_errors, removals, sensitivity

    remove = shown["remove"]
    found, _ = removals(profile, remove=remove)
    layers = profile["model"]["geometry"]["layers"]
    return page(
        "profile.html",
        profile=profile,
        layers=layers,
        full=full_ranks(profile["model"]["geometry"]),
        heat=heat([each.document() for each in found], layers),
        found=sensitivity(profile, remove=remove, limit=_LISTED),
        errors=interpolation_errors(profile),
        removals=sorted({*REMOVALS, remove}),
        **shown,
    )


def heat(found: list[dict[str, Any]], layers: int) -> dict[str, list[dict[str, Any] | None]]:
    """Component -> one cell a layer: the removal with the colour of its loss and ink that can be read on it; None where
    nothing can be removed.
    """
    logs = [math.log10(each["loss_nats"]) for each in found if each["loss_nats"] > 0]
    high = max(logs, default=0.0)
    low = min(max(min(logs, default=high - 1), high - _DECADES), high - 1)
    cells: dict[str, list[dict[str, Any] | None]] = {name: [None] * layers for name in COMPONENTS}
    for each in found:
        loss = each["loss_nats"]
        share = max((math.log10(loss) - low) / (high - low), 0.0) if loss > 0 else 0.0
        dark = ink_on(share) == "#ffffff"
        cells[each["component"]][each["layer"]] = {**each, "colour": colour(share), "dark": dark}
    return cells
