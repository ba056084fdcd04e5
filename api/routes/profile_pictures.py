"""Profiles as pictures."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from allocator.plan.documents.profile import Profile
from allocator.plan.model.geometry import Component
from api.routes.profiles import LayerQuery, ProfileKey, RemoveQuery
from api.web.etags import BINARY, SVG, SVG_HEADERS, Rendered, conditional, rendered_bytes
from api.web.profile_answers import profile_answer
from api.web.services import CallerDep, ServicesDep

router = APIRouter(prefix="/v1/profiles", tags=["profiles"])


@router.get(
    "/{key}/heatmap.svg",
    response_class=Response,
    responses={200: {"description": "The picture", "content": {SVG: BINARY}}},
)
async def get_heatmap(
    key: ProfileKey, services: ServicesDep, caller: CallerDep, request: Request, remove: RemoveQuery = 0.2
) -> Response:
    """Layers by components, coloured by log10 of the loss of removing a fraction of the rank."""

    def make(profile: Profile) -> Rendered:
        from allocator.report.figures.profile import heatmap

        return rendered_bytes(heatmap(profile, remove=remove).svg().encode(), SVG, SVG_HEADERS)

    return conditional(request, await profile_answer(services, caller, key, ("heatmap", remove), make))


@router.get(
    "/{key}/curves.svg",
    response_class=Response,
    responses={200: {"description": "The picture", "content": {SVG: BINARY}}},
)
async def get_curves_picture(
    key: ProfileKey,
    services: ServicesDep,
    caller: CallerDep,
    request: Request,
    scale: Literal["log", "linear"] = "log",
    layer: LayerQuery = None,
    component: Component | None = None,
) -> Response:
    """Loss against rank, one panel per layer: measured points with standard errors, and the interpolated curve."""

    def make(profile: Profile) -> Rendered:
        from allocator.report.figures.profile import curves

        figure = curves(profile, scale=scale, layer=layer, component=component)
        return rendered_bytes(figure.svg().encode(), SVG, SVG_HEADERS)

    question = ("curves", scale, layer, component)
    return conditional(request, await profile_answer(services, caller, key, question, make))
