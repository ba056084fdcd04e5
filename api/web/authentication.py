"""Callers of requests: a token in the ``Authorization`` header or in a cookie, else nobody.

A store in which no token was ever made serves everybody who reaches it as team ``default`` with all scopes; `api.serve`
sees to it that only this machine reaches it. From the first token on, every ``/v1`` request needs one, also after all
tokens have been revoked or have expired.
"""

from __future__ import annotations

from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allocator.base.access import ADMIN, DEFAULT_TEAM, allows
from allocator.base.errors import Forbidden, RankallocError, Unauthenticated
from allocator.store import Store
from api.web import problems
from api.web.addresses import own_path
from api.web.limits import RequestRate

COOKIE = "rankalloc_token"
"""Set it with ``HttpOnly``, ``SameSite=Strict`` and the service's own path: no script reads it and no other site's page sends
it.
"""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST = 200


@dataclass(frozen=True)
class Caller:
    """The member on whose behalf a request acts."""

    team: str
    name: str
    scope: str
    """The token's scope: ``read``, ``submit`` or ``admin``."""
    token_id: str | None = None
    """None where the store has no tokens and nobody has to log in."""

    @property
    def is_operator(self) -> bool:
        """Whether they may create teams and see all of them."""
        return self.team == DEFAULT_TEAM and self.may(ADMIN)

    def actor(self, team: str) -> str:
        """Their name in the audit trail of ``team``."""
        return self.name if team == self.team else f"{self.team}/{self.name}"

    def may(self, scope: str) -> bool:
        """Whether the token has the scope."""
        return allows(self.scope, scope)

    def require(self, scope: str) -> None:
        """Raises Forbidden, naming the scope, unless the token has it."""
        if not allows(self.scope, scope):
            raise Forbidden(
                f"This needs a token with scope {scope}; yours has scope {self.scope}.", needed_scope=scope
            )


ANYBODY = Caller(DEFAULT_TEAM, DEFAULT_TEAM, ADMIN)


class Authenticator:
    """One per application. Asks the store at every request, so that a revocation is felt by the next one."""

    def __init__(self, store: Store, *, tokens_needed: bool = False) -> None:
        """``tokens_needed``: do not even ask whether the store has had tokens."""
        self._store = store
        self._closed = tokens_needed

    @property
    def tokens_needed(self) -> bool:
        """Whether a token was ever made; once True, always True."""
        if not self._closed:
            self._closed = self._store.tokens.any()
        return self._closed

    def caller(self, method: str, headers: Headers) -> Caller | None:
        """Who is asking, or None. The header wins: with one, the cookie is not looked at.

        Raises:
            Forbidden: a cookie with a request that changes something and that no page of this service has made.
        """
        if not self.tokens_needed:
            return ANYBODY
        header = headers.get("authorization")
        if header is not None:
            return self._holder(_bearer(header))
        secret = _cookie(headers)
        if secret is not None and method not in SAFE_METHODS and not _from_own_page(headers):
            raise Forbidden(
                "A request that logs in by cookie and changes something has to come from a page of this service"
                " (Sec-Fetch-Site: same-origin, or an Origin that is the Host). Programs send Authorization: Bearer."
            )
        return self._holder(secret)

    def _holder(self, secret: str | None) -> Caller | None:
        holder = None if secret is None else self._store.tokens.holder(secret)
        return None if holder is None else Caller(holder.team, holder.name, holder.scope, holder.token_id)


def caller_of(request: Request) -> Caller | None:
    """Who is asking, or None: for pages, which then ask for a token. Looks into the store: not for the event loop.

    Raises:
        Forbidden: see `Authenticator.caller`.
    """
    authenticator: Authenticator = request.app.state.services.authenticator
    return authenticator.caller(request.method, request.headers)


class Authentication:
    """ASGI: no request gets to a ``/v1`` route, known or not, or has its body read, before it is known who asks."""

    def __init__(self, app: ASGIApp, requests_per_minute: int) -> None:
        self.app = app
        self._rate = RequestRate(requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (own_path(scope) + "/").startswith("/v1/"):
            await self.app(scope, receive, send)
            return

        async def send_varying(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).add_vary_header("Authorization, Cookie")
            await send(message)

        try:
            scope["state"]["caller"] = await run_in_threadpool(self._admit, scope)
        except RankallocError as error:
            await problems.answer(dict(scope), error)(scope, receive, send_varying)
            return
        await self.app(scope, receive, send_varying)

    def _admit(self, scope: Scope) -> Caller:
        authenticator: Authenticator = scope["app"].state.services.authenticator
        headers = Headers(scope=scope)
        caller = authenticator.caller(scope["method"], headers)
        if caller is None:
            raise nobody(headers)
        self._rate.take(caller.token_id or caller.name)
        return caller


def nobody(headers: Headers) -> Unauthenticated:
    """The error of a request for which nobody stands; never with what it sent."""
    if headers.get("authorization") is None and _cookie(headers) is None:
        detail = "Every request to /v1 needs a token: Authorization: Bearer ra_... Ask an admin of your team for one."
    else:
        detail = "The token is not one of this service, or was revoked, or has expired."
    return Unauthenticated(detail)


def _bearer(header: str) -> str | None:
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" and len(header) <= _LONGEST else None


def _cookie(headers: Headers) -> str | None:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie is not None and 0 < len(cookie.value) <= _LONGEST else None


def _from_own_page(headers: Headers) -> bool:
    if headers.get("sec-fetch-site") == "same-origin":
        return True
    _, _, origin = headers.get("origin", "").partition("://")
    return origin != "" and origin.lower() == headers.get("host", "").lower()
