"""What the handlers work with, and who is asking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from allocator.latency import LatencyTable
from allocator.settings import Settings
from allocator.store import Store

TEAM = "default"


@dataclass(frozen=True)
class Services:
    """One per application."""

    settings: Settings
    store: Store
    wake: Callable[[], None]
    """Tells the dispatcher that there is something to publish."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server is asked to stop, so that streams end instead of holding it up."""


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request acts. Without tokens everybody is the team ``default``."""

    team: str
    name: str


def stored_table(services: Services, caller: Caller, key: str | None) -> LatencyTable | None:
    """The latency table of this key among the caller's. Raises NotFound."""
    return None if key is None else LatencyTable(services.store.latency_tables.get(caller.team, key))


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def _caller() -> Caller:
    return Caller(TEAM, TEAM)


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
