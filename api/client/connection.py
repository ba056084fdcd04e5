"""The connection: one server, one token, time-outs, and what is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import httpx
from pydantic.config import ExtraValues

from allocator.store.paging import SomeRows, all_rows
from api.client.errors import ClientError, NoAnswer, TooManyRequests, Unavailable, refusal
from api.client.retrying import answered, pause


class PageModel(SomeRows[Any], Protocol):
    """One page of a list, as the server answers it."""

    @classmethod
    def model_validate(cls, obj: Any, *, extra: ExtraValues) -> Self: ...


class Connection:
    """Requests to one server with one token.

    Thread safe as far as httpx is; close it, or use it as a context manager.

    Args:
        server: such as ``http://127.0.0.1:8321``.
        token: sent as ``Authorization: Bearer``; to no other server, since redirects are not followed.
        timeout_s: for each answer, except for streams of events.
        retries: how often a request is tried again after 429, 503 or a broken connection: where it is safe to repeat it, which
            includes submissions, since these carry an Idempotency-Key. Pauses double from a quarter of a second and are random
            below that, or as long as the server says.
        transport: for tests, instead of the network.

    Raises:
        ClientError: ``server`` is no http address.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not server.startswith(("http://", "https://")):
            raise ClientError(f"{server!r} is not an address such as http://127.0.0.1:8321")
        headers = {"Accept": "application/json", "User-Agent": "rankalloc-client"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.http = httpx.Client(
            base_url=server.rstrip("/"), headers=headers, timeout=timeout_s, transport=transport
        )
        self.retries = retries

    def json(self, method: str, path: str, **options: Any) -> Any:
        """`request`, and the answer's JSON."""
        return self.request(method, path, **options).json()

    def pages(self, path: str, page: type[PageModel], **query: Any) -> Iterator[Any]:
        """The items of a list, page after page as they are wanted.

        Args:
            page: the model of one page, with ``items`` and ``next_cursor``.
            query: of the first request; what is None is left out.
        """
        return all_rows(
            lambda cursor: page.model_validate(
                self.json("GET", path, params={**query, "cursor": cursor}), extra="ignore"
            )
        )

    def request(
        self, method: str, path: str, *, repeatable: bool | None = None, **options: Any
    ) -> httpx.Response:
        """One request to its answer.

        Args:
            repeatable: whether it may reach the server twice; default: if it only reads.
            options: as `httpx.Client.request` takes them; parameters that are None are left out.

        Raises:
            NoAnswer: there was none.
            Refused: the answer was an error.
        """
        if "params" in options:
            options["params"] = {
                name: value for name, value in options["params"].items() if value is not None
            }
        again = method == "GET" if repeatable is None else repeatable
        for attempt in range(self.retries + 1):
            try:
                with answered():
                    response = self.http.request(method, path, **options)
                if not response.is_error:
                    return response
                raise refusal(response)
            except (NoAnswer, TooManyRequests, Unavailable) as error:
                # Too many requests: it was turned away at the door, so nothing has happened yet.
                if attempt == self.retries or not (again or isinstance(error, TooManyRequests)):
                    raise
                pause(attempt, error)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer that is read bit by bit, asked for once. Raises as `request`, also while it is read."""
        with answered(), self.http.stream("GET", path, **options) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            yield response

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
