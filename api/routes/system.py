"""For those who run the service: is it there, is it ready, how much is waiting, which version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Response

from allocator.jobs import states
from allocator.store import migrate
from api.services import CallerDep, ServicesDep

router = APIRouter(tags=["system"])

_ITEM_STATES = ("queued", "running", "succeeded", "failed", "crashed", "cancelled")


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(services: ServicesDep) -> dict[str, str]:
    """The database answers and its schema is this version's; 503 otherwise."""
    migrate.check(services.store.database)
    return {"status": "ok"}


@router.get("/metrics")
def metrics(services: ServicesDep) -> Response:
    """Counts from the database, in Prometheus' text format."""
    store = services.store
    lines = [
        *_gauge("rankalloc_jobs", "Jobs by state.", store.jobs.count_by_state(), states.STATES),
        *_gauge("rankalloc_job_items", "Parts of jobs by state.", store.items.count_by_state(), _ITEM_STATES),
        "# HELP rankalloc_outbox_messages Messages not yet handed to the broker.",
        "# TYPE rankalloc_outbox_messages gauge",
        f"rankalloc_outbox_messages {store.outbox.count()}",
    ]
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _gauge(name: str, text: str, counts: dict[str, int], labels: tuple[str, ...]) -> list[str]:
    values = [f'{name}{{state="{label}"}} {counts.get(label, 0)}' for label in labels]
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *values]


@router.get("/v1/version")
def get_version(_caller: CallerDep) -> dict[str, Any]:
    """This version, the API's, and the database revision it needs."""
    return {"rankalloc": installed_version(), "api": "v1", "schema": migrate.head()}


def installed_version() -> str:
    """The installed distribution's version; ``0+source`` where the code runs without being installed."""
    try:
        return version("rankalloc")
    except PackageNotFoundError:
        return "0+source"
