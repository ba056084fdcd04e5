"""The application: routes, pages, error answers, guards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI

from allocator.base.settings import Settings
from allocator.base.version import installed_version
from allocator.store import Store
from api.pages import jobs as job_pages
from api.pages import plans as plan_pages
from api.pages import profiles as profile_pages
from api.pages import team as team_pages
from api.pages import workshop
from api.routes import (
    aliases,
    artifacts,
    audit,
    jobs,
    latency_tables,
    notes,
    plans,
    profile_pictures,
    profiles,
    shares,
    system,
    teams,
    tokens,
)
from api.schemas.answers import Problem
from api.web import assets, problems
from api.web.addresses import Proxied
from api.web.authentication import Authentication, Authenticator
from api.web.middleware import Guard
from api.web.observe import Observed
from api.web.services import Services

_PROBLEM: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for code, text in (
        (401, "No token, or none that lives"),
        (403, "The token's scope is too narrow"),
        (404, "No such object"),
        (409, "The object's state forbids it"),
        (412, "It is not what the request believes"),
        (422, "The request cannot be carried out as written"),
        (428, "The request has to say which version it changes"),
        (429, "Too many requests, or too many open jobs; says when to come back"),
        (503, "The database does not answer"),
    )
}


def create_app(
    settings: Settings,
    *,
    store: Store | None = None,
    wake: Callable[[], None] = lambda: None,
    dispatched_s_ago: Callable[[], float] | None = None,
    tokens_needed: bool = False,
) -> FastAPI:
    """The API over the store of ``settings``.

    Args:
        store: an open store to use instead of opening one.
        wake: called after a job was stored, to publish its messages at once rather than at the next look.
        dispatched_s_ago: seconds since the dispatcher last looked, for ``/readyz``; None where it runs elsewhere.
        tokens_needed: never serve anybody without a token, whatever becomes of the store.

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
    opened = store or Store.open(settings, create=True)
    authenticator = Authenticator(opened, tokens_needed=tokens_needed)
    services = Services(settings, opened, wake, authenticator, dispatched_s_ago=dispatched_s_ago)
    app.state.services = services
    problems.install(app)
    app.add_middleware(Authentication, requests_per_minute=settings.requests_per_minute)
    app.add_middleware(Observed, metrics=services.metrics)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Proxied, root_path=settings.root_path, trusted=settings.trusted_proxies)
    pages = (job_pages, profile_pages, workshop, plan_pages, team_pages, assets)
    for router in [*routers(), *(page.router for page in pages)]:
        app.include_router(router)
    return app


def routers() -> list[APIRouter]:
    """Every room's routes."""
    rooms = (
        jobs,
        artifacts,
        profiles,
        profile_pictures,
        latency_tables,
        plans,
        notes,
        aliases,
        teams,
        tokens,
        shares,
        audit,
        system,
    )
    return [room.router for room in rooms]
