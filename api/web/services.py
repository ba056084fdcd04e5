"""The services that handlers work with, their caches, and the dependencies that say who calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar, cast

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool

from allocator.base.access import ADMIN, READ, SUBMIT
from allocator.base.settings import Settings
from allocator.plan.documents.profile import Profile
from allocator.service import TeamStore
from allocator.store import Store
from allocator.store.shares import RowReference
from api.web.authentication import COOKIE, Authenticator, Caller, caller_of, nobody
from api.web.etags import Rendered
from api.web.job_links import links_of
from api.web.metrics import Metrics
from api.web.pace import Pace
from api.web.shared_cache import SharedCache

_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="Needed as soon as the store has had a token; `rankalloc tokens create` makes one.",
)
_COOKIE = APIKeyCookie(
    name=COOKIE, auto_error=False, scheme_name="cookie", description="The same token, for pages."
)


T = TypeVar("T")
_CACHED_BYTES = 32 << 20
_CACHED_LOSSES = 200_000
"""Some eight profiles of 80 layers, or fifty of 32: 50 MB."""
_CACHED_PACES = 1000
_SOLVES_AT_ONCE = 2


def _losses(profile: Profile) -> int:
    """The number of losses in a profile, to which its size in memory is proportional."""
    return sum(len(curve.ranks) for curve in profile.curves)


def _bytes(answer: Rendered) -> int:
    return len(answer.body)


def _lasts(answer: Rendered) -> bool:
    return answer.lasts


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
    profiles: SharedCache[Profile] = field(default_factory=lambda: SharedCache(_CACHED_LOSSES, _losses))
    paces: SharedCache[Pace] = field(default_factory=lambda: SharedCache(_CACHED_PACES, lambda _: 1))
    """Paces of stages that somebody looks at, by job and stage; a job is looked up for its team first."""
    answers: SharedCache[Rendered] = field(default_factory=lambda: SharedCache(_CACHED_BYTES, _bytes, _lasts))
    solves: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_SOLVES_AT_ONCE))

    async def apart(self, work: Callable[[], T]) -> T:
        """Do what solves programs or draws. Only so much of it goes on at once, in threads of its own: reads, which take a
        hundredth of its time, do not queue up behind it for a thread. Two, so that one long frontier does not hold up all
        plans; more would only share the interpreter.
        """
        return await to_thread.run_sync(work, limiter=self.solves)

    def team(self, caller: Caller) -> TeamStore:
        """The verbs of a caller's team."""
        return TeamStore(
            self.store,
            self.settings,
            team=caller.team,
            by=caller.name,
            profile=partial(self.profile, caller.team),
            links=links_of,
        )

    def profile(self, team: str, key: str, *, row: RowReference | None = None) -> Profile:
        """The profile of this key, read once for all who ask. ``row``: its row, where it is known. Raises NotFound."""
        store = self.store.profiles
        located = row or store.locate(team, key)
        return self.profiles.get((located, key), lambda: store.get(team, key, row=located))


# Dependencies that do not wait are coroutines: each of the others costs a thread's turn at every request.
async def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


async def _body(request: Request) -> bytes:
    return await request.body()


async def _caller(
    request: Request,
    needed: SecurityScopes,
    # For the API's description, which says the scope beside each: `Authentication` has looked already.
    _bearer: Annotated[Any, Security(_BEARER)],
    _cookie: Annotated[Any, Security(_COOKIE)],
) -> Caller:
    """Whom `Authentication` has admitted, or on addresses that it leaves alone whoever stands for the request; if their token
    has the scopes needed.
    """
    caller: Caller | None = getattr(request.state, "caller", None) or await run_in_threadpool(
        caller_of, request
    )
    if caller is None:
        raise nobody(request.headers)
    for scope in needed.scopes:
        caller.require(scope)
    return caller


ServicesDep = Annotated[Services, Depends(_services)]
BodyDep = Annotated[bytes, Depends(_body)]
"""The body as it was sent, for a handler outside the event loop."""
CallerDep = Annotated[Caller, Security(_caller, scopes=[READ])]
"""Anybody with scope ``read``."""
SubmitDep = Annotated[Caller, Security(_caller, scopes=[SUBMIT])]
"""Somebody who may make, change and share the team's things."""
AdminDep = Annotated[Caller, Security(_caller, scopes=[ADMIN])]
"""Somebody who may manage the team itself."""


async def _team(services: ServicesDep, caller: CallerDep) -> TeamStore:
    return services.team(caller)


async def _submitting_team(services: ServicesDep, caller: SubmitDep) -> TeamStore:
    return services.team(caller)


TeamDep = Annotated[TeamStore, Depends(_team)]
"""The verbs of the team for anybody with scope ``read``."""
SubmitTeamDep = Annotated[TeamStore, Depends(_submitting_team)]
"""The same for somebody with scope ``submit``."""

__all__ = [
    "AdminDep",
    "BodyDep",
    "Caller",
    "CallerDep",
    "Services",
    "ServicesDep",
    "SubmitDep",
    "SubmitTeamDep",
    "TeamDep",
]
