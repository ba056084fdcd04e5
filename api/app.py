"""The application: routes, error answers, guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from allocator.settings import Settings
from allocator.store import Store
from api import problems
from api.middleware import Guard
from api.routes import jobs, latency_tables, plans, profiles, system
from api.schemas import Problem
from api.services import Services

_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for code, text in (
        (404, "No such object"),
        (409, "The object's state forbids it"),
        (422, "The request cannot be carried out as written"),
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
        version=system.installed_version(),
        description="Compress Transformers under budgets: profiles, plans and jobs.",
        responses=_PROBLEM,
        # Their pages load scripts from elsewhere; /openapi.json is served.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = Services(settings, store or Store.open(settings, create=True), wake)
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    for room in (jobs, profiles, latency_tables, plans, system):
        app.include_router(room.router)
    return app
