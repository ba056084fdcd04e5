"""The guard that every request passes: an id, a host check, a limit on its body, headers that keep browsers careful."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from allocator.base.settings import Settings
from api.web.authentication import SAFE_METHODS
from api.web.limits import MAX_JSON_DEPTH, json_depth
from api.web.problems import simple_problem

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOO_DEEP = f"The body's JSON may be nested at most {MAX_JSON_DEPTH} deep."


class Guard:
    """Pure ASGI, because it has to see the body before anybody reads it.

    * The ``Host`` must be a name this service has: otherwise any web page could reach a loopback service by letting its own
      name resolve to 127.0.0.1.
    * A prefix that a proxy names must be a path: links made from anything else could lead to other hosts.
    * Requests that change something must not come from another site's page.
    * JSON nested deeper than `MAX_JSON_DEPTH` is refused before anything that calls itself reads it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._limit = settings.max_body_bytes
        self._too_large = f"The body may have at most {self._limit} bytes."
        self._hosts = {host.lower() for host in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        request_id = sent_id if _REQUEST_ID.fullmatch(sent_id) else str(ULID())
        scope.setdefault("state", {})["request_id"] = request_id
        size = 0
        is_json = "json" in headers.get("content-type", "").lower()
        parts: list[bytes] = []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["X-Request-ID"] = request_id
                answer["X-Content-Type-Options"] = "nosniff"
            await send(message)

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self._limit:
                    # The one exception that FastAPI lets pass while it reads a body.
                    raise HTTPException(413, self._too_large)
                if is_json:
                    parts.append(message.get("body", b""))
                    if not message.get("more_body") and json_depth(b"".join(parts)) > MAX_JSON_DEPTH:
                        raise HTTPException(422, _TOO_DEEP)
            return message

        refusal = self._refusal(dict(scope), headers)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self.app(scope, receive_limited, send_with_headers)

    def _refusal(self, scope: dict[str, Any], headers: Headers) -> ASGIApp | None:
        if _bare_host(headers.get("host", "")) not in self._hosts:
            return simple_problem(
                scope, 421, "This service does not answer under that host name (RANKALLOC_ALLOWED_HOSTS)."
            )
        if wrong := scope["state"].get("wrong_prefix"):
            return simple_problem(scope, 400, wrong)
        if scope["method"] not in SAFE_METHODS and headers.get("sec-fetch-site", "none") not in (
            "none",
            "same-origin",
        ):
            return simple_problem(scope, 403, "Requests from another site's page are refused.")
        # PostgreSQL could not even look for it.
        if "\0" in scope["path"]:
            return simple_problem(
                scope, 404, "There is nothing at this address: no name here holds a NUL character."
            )
        if b"%00" in scope["query_string"]:
            return simple_problem(
                scope, 400, "The query holds a NUL character (%00), which no value here does."
            )
        length = headers.get("content-length", "0")
        # Beyond 18 digits, int() itself could refuse.
        if length.isdecimal() and (len(length) > 18 or int(length) > self._limit):
            return simple_problem(scope, 413, self._too_large)
        return None


def _bare_host(header: str) -> str:
    """A Host header without its port."""
    header = header.lower()
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]
