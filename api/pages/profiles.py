"""Profiles: what has been measured of which model, as a heat map, curves and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse
from pydantic import BeforeValidator, Field

from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import Removal
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.report.figures.drawing import colour, ink_on
from allocator.report.figures.figure import Figure
from allocator.report.figures.panel import Axis
from api.web.render import full_ranks, page
from api.web.services import CallerDep, ServicesDep

router = APIRouter(include_in_schema=False)

REMOVALS = (0.05, 0.1, 0.2, 0.3, 0.5)
_MOST_ROWS = 8
_Blank = BeforeValidator(lambda value: None if value == "" else value)
"""A form's choice of all comes as an empty text."""
LayerChoice = Annotated[Annotated[int, Field(ge=0, le=10_000)] | None, _Blank, Query()]
ComponentChoice = Annotated[Component | None, _Blank, Query()]


@router.get("/profiles", response_class=HTMLResponse)
def profile_list(
    services: ServicesDep,
    caller: CallerDep,
    model: Annotated[str, Query(max_length=300)] = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> HTMLResponse:
    """Stored profiles, newest first."""
    stored = services.store.profiles.find(caller.team, model=model.strip() or None, cursor=cursor)
    return page("profiles.html", profiles=stored.items, next_cursor=stored.next_cursor, model=model.strip())


@router.get("/profiles/{key}", response_class=HTMLResponse)
async def profile_page(
    key: str,
    services: ServicesDep,
    caller: CallerDep,
    remove: Annotated[float, Query(gt=0, lt=1)] = 0.1,
    scale: Literal["log", "linear"] = "log",
    layer: LayerChoice = None,
    component: ComponentChoice = None,
) -> HTMLResponse:
    """One profile; ``remove`` is the share of a component's rank that the tables and the map take away."""
    selection = {"scale": scale, "layer": layer, "component": component}
    # The least loss of that cut on the whole model is a program to solve.
    return await services.apart(lambda: _page(services.profile(caller.team, key), remove, selection))


@router.get("/profiles/{key}/curves", response_class=HTMLResponse)
async def curves_part(
    key: str,
    services: ServicesDep,
    caller: CallerDep,
    scale: Literal["log", "linear"] = "log",
    layer: LayerChoice = None,
    component: ComponentChoice = None,
) -> HTMLResponse:
    """The part of the page that shows the curves chosen."""
    selection = {"scale": scale, "layer": layer, "component": component}

    def drawn() -> HTMLResponse:
        return page("curves.html", curves=_curves(services.profile(caller.team, key), selection))

    return await services.apart(drawn)


def _curves(profile: Profile, selection: dict[str, Any]) -> Figure:
    from allocator.report.figures.profile import curves

    return curves(profile, **selection)


def _page(profile: Profile, remove: float, selection: dict[str, Any]) -> HTMLResponse:
    from allocator.plan.queries import interpolation_errors, removals, sensitivity

    cuts, _ = removals(profile, remove=remove)
    layers = profile.model.geometry.layers
    return page(
        "profile.html",
        profile=profile,
        layers=layers,
        full=full_ranks(profile.model.geometry),
        heat=heat(cuts, layers),
        losses=sensitivity(profile, remove=remove, limit=_MOST_ROWS),
        errors=interpolation_errors(profile),
        remove=remove,
        removals=sorted({*REMOVALS, remove}),
        curves=_curves(profile, selection),
        **selection,
    )


def heat(cuts: Sequence[Removal], layers: int) -> dict[str, list[dict[str, Any] | None]]:
    """Component -> one cell a layer: the removal with the colour of its loss and ink that can be read on it; None where
    nothing can be removed.
    """
    shade = Axis.logarithmic(cut.loss_nats for cut in cuts)
    cells: dict[str, list[dict[str, Any] | None]] = {name: [None] * layers for name in COMPONENTS}
    for cut in cuts:
        share = shade.share(cut.loss_nats)
        dark = ink_on(share) == "#ffffff"
        cells[cut.component][cut.layer] = {**cut.document, "colour": colour(share), "dark": dark}
    return cells
