"""Counts, times and logs every request that gets through the guard."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allocator.base import logs
from api.web.metrics import Metrics

log = logging.getLogger("api.requests")

_UNMATCHED = "unmatched"


class Observed:
    """Pure ASGI, inside the guard, which has given the request its id.

    Time is taken to the beginning of the answer: a stream of events lasts as long as its reader likes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, answered = time.perf_counter(), False

        def observe(status: int) -> None:
            nonlocal answered
            answered = True
            self._note(dict(scope), status, time.perf_counter() - started)

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                observe(message["status"])
            await send(message)

        with logs.bound(request=scope["state"]["request_id"]):
            try:
                await self.app(scope, receive, observed_send)
            except Exception:
                if not answered:
                    observe(500)
                raise

    def _note(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        # The route's pattern, not the path: ids would make a time series each, and names may hold anything.
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        log.info("%s %s %d in %.0f ms", scope["method"], route, status, 1000 * seconds)
