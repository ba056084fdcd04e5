"""For those who run the service: is it there, is it ready, how much is waiting, which version."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from allocator.base.version import installed_version
from allocator.store import migrate
from api.web.metrics import CONTENT_TYPE
from api.web.services import CallerDep, Services, ServicesDep

router = APIRouter(tags=["system"])

_STUCK_S = 60.0
"""A dispatcher that has not gone round for so long is stuck: its pauses are seconds, also while the broker is down."""


class Readiness(BaseModel):
    """``ok`` or what is wrong, by check."""

    status: str
    checks: dict[str, str]


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
def readyz(
    services: ServicesDep,
    response: Response,
    work: Annotated[
        bool,
        Query(description="Also whether due work is being taken, for those who watch the whole service."),
    ] = False,
) -> dict[str, Any]:
    """Whether this API can do its part: the database answers at this version's schema, and the dispatcher beside it goes
    round. 503 otherwise. Work that no worker takes is no fault of the API: it is only told, unless `work` is asked for.
    """
    migrate.check(services.store.database)
    checks = {"database": "ok", "dispatcher": _dispatcher(services)}
    waiting = services.store.operations.work()
    stalled = waiting.due > 0 and not waiting.running and waiting.oldest_wait_s > services.settings.stalled_s
    checks["work"] = (
        f"{waiting.due} parts wait, the first for {waiting.oldest_wait_s:.0f} s, and no worker holds any"
        if stalled
        else "ok"
    )
    fine = checks["dispatcher"] == "ok" and not (work and stalled)
    if not fine:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return {"status": "ok" if fine else "unavailable", "checks": checks}


def _dispatcher(services: Services) -> str:
    if services.dispatched_s_ago is None:
        return "ok"
    ago = services.dispatched_s_ago()
    return "ok" if ago < _STUCK_S else f"it last went round {ago:.0f} s ago"


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(services: ServicesDep) -> Response:
    """The queue, jobs and stages from the database, and this process's requests, in Prometheus' text format."""
    return Response(services.metrics.text(services.store), media_type=CONTENT_TYPE)


@router.get("/v1/version")
def get_version(_caller: CallerDep) -> dict[str, Any]:
    """This version, the API's, and the database revision it needs."""
    return {"rankalloc": installed_version(), "api": "v1", "schema": migrate.head()}
