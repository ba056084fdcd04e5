"""Addresses as the caller has to write them: behind a proxy that shows the service under a path, all begin with that path.

`Proxied` finds the prefix of a request; whatever leads somewhere (links, forms, ``Location``, cookies) goes through `address`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from allocator.base.proxies import path_prefix

HEADER = "X-Forwarded-Prefix"
_prefix: ContextVar[str] = ContextVar("prefix", default="")


def prefix() -> str:
    """The path under which the present request's proxy shows the service; empty without one."""
    return _prefix.get()


def address(path: str) -> str:
    """A path of this service as the caller has to write it."""
    return _prefix.get() + path


def own_path(scope: Scope | dict[str, Any]) -> str:
    """A request's path without the prefix."""
    path: str = scope["path"]
    return path[len(scope.get("root_path", "")) :]


class Proxied:
    """ASGI, the outermost: after it a request's path begins with the prefix (``root_path``), however the proxy sent it, and
    client and scheme are those that a trusted proxy names.

    A prefix that is none is noted as ``wrong_prefix`` of the request's state, for the guard to refuse: links made from it
    could lead to other hosts.

    Args:
        root_path: the prefix; empty: what a trusted proxy says in ``X-Forwarded-Prefix``, at each request.
        trusted: addresses and networks of proxies; what anybody else says is ignored.
    """

    def __init__(self, app: ASGIApp, root_path: str, trusted: list[str]) -> None:
        self._root_path = root_path
        self._inner = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)  # type: ignore[arg-type]
            return
        root_path = self._root_path or self._forwarded_prefix(scope)
        if root_path:
            _put_under(scope, root_path)
        token = _prefix.set(root_path)
        try:
            await self._inner(scope, receive, send)  # type: ignore[arg-type]
        finally:
            _prefix.reset(token)

    def _forwarded_prefix(self, scope: Scope) -> str:
        """The prefix that a trusted proxy has named."""
        peer = scope.get("client")
        values = Headers(scope=scope).getlist(HEADER)
        if not values or peer is None or peer[0] not in self._inner.trusted_hosts:
            return ""
        try:
            return path_prefix(", ".join(values))
        except ValueError as error:
            scope.setdefault("state", {})["wrong_prefix"] = f"{HEADER}: {error}"
            return ""


def _put_under(scope: Scope, root_path: str) -> None:
    """Some proxies take the prefix off the path and others leave it there: it is there afterwards, once."""
    path: str = scope["path"]
    if path == root_path:
        path = "/"
    elif path.startswith(root_path + "/"):
        path = path[len(root_path) :]
    scope["root_path"], scope["path"] = root_path, root_path + path
