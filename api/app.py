"""The application: routes, error answers, guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI

from allocator.settings import Settings
from allocator.store import Store
from allocator.version import installed_version
from api import problems
from api.middleware import Guard
from api.routes import aliases, artifacts, jobs, notes, plans, profiles, system
from api.schemas import Problem
from api.services import Services

_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for code, text in (
        (404, "No such object"),
        (409, "The object's state forbids it"),
        (412, "It is not what the request believes"),
        (422, "The request cannot be carried out as written"),
        (428, "The request has to say which version it changes"),
        (503, "The database does not answer"),
    )
}


def create_app(
    settings: Settings, *, store: Store | None = None, wake: Callable[[], None] = lambda: None
) -> FastAPI:
    """The API over the store of ``settings``.

    Args:
        store: an open store to use instead of opening one.
        wake: called after a job was stored, to publish its messages at once rather than at the next look.

    Raises:
        SchemaMismatch: the database is at another revision; says the command that mends it.
    """
    app = FastAPI(
        title="rankalloc",
        version=installed_version(),
        description="Compress Transformers under budgets: profiles, plans and jobs.",
        responses=_PROBLEM,
        # Their pages load scripts from elsewhere; /openapi.json is served.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = Services(settings, store or Store.open(settings, create=True), wake)
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    for router in routers():
        app.include_router(router)
    return app


def routers() -> list[APIRouter]:
    """Every room's routes."""
    return [room.router for room in (jobs, artifacts, profiles, plans, notes, aliases, system)]
