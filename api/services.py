"""What the handlers work with, and who is asking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from allocator.latency import LatencyTable
from allocator.settings import Settings
from allocator.store import Store
from api.authentication import COOKIE, Authenticator, Caller, caller_of, nobody
from api.metrics import Metrics

_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="Needed as soon as the store has had a token; `rankalloc tokens create` makes one.",
)
_COOKIE = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="cookie", description="The same token, for pages."
)


@dataclass(frozen=True)
class Services:
    """One per application."""

    settings: Settings
    store: Store
    wake: Callable[[], None]
    """Tells the dispatcher that there is something to publish."""
    authenticator: Authenticator
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server is asked to stop, so that streams end instead of holding it up."""
    metrics: Metrics = field(default_factory=Metrics)
    dispatched_s_ago: Callable[[], float] | None = None
    """Seconds since the dispatcher beside this application last looked; None where it runs elsewhere."""


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def _caller(
    request: Request,
    _bearer: Annotated[
        Any, Security(_BEARER)
    ],  # for the API's description; `Authentication` has looked already
    _cookie: Annotated[Any, Security(_COOKIE)],
) -> Caller:
    """Whom `Authentication` has admitted; on addresses that it leaves alone, whoever stands for the request."""
    caller: Caller | None = getattr(request.state, "caller", None) or caller_of(request)
    if caller is None:
        raise nobody(request.headers)
    return caller


def _with_scope(scope: str) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        caller.require(scope)
        return caller

    return check


def stored_table(services: Services, caller: Caller, key: str | None) -> LatencyTable | None:
    """The latency table of this key among the caller's. Raises NotFound."""
    return None if key is None else LatencyTable(services.store.latency_tables.get(caller.team, key))


ServicesDep = Annotated[Services, Depends(_services)]
CallerDep = Annotated[Caller, Depends(_caller)]
"""Anybody with scope ``read``."""
SubmitDep = Annotated[Caller, Depends(_with_scope("submit"))]
"""Somebody who may make, change and share the team's things."""
AdminDep = Annotated[Caller, Depends(_with_scope("admin"))]
"""Somebody who may manage the team itself."""

__all__ = ["AdminDep", "Caller", "CallerDep", "Services", "ServicesDep", "SubmitDep", "stored_table"]
