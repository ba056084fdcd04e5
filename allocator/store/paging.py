"""Pages of lists: newest first, continued by an opaque cursor that stays valid while rows are added."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Column, Connection, Select

from allocator.base.errors import InvalidInput

MAX_LIMIT = 200
_LARGEST_ID = 2**63 - 1
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SomeRows(Protocol[T_co]):
    """Some rows of a list and the cursor of the next page (None: these were the last)."""

    @property
    def items(self) -> Sequence[T_co]: ...

    @property
    def next_cursor(self) -> str | None: ...


@dataclass(frozen=True)
class Page(Generic[T]):
    """`SomeRows` of a store."""

    items: list[T]
    next_cursor: str | None


def encode_cursor(position: int | str) -> str:
    return base64.urlsafe_b64encode(f"v1:{position}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The position inside a cursor. Raises InvalidInput for anything this service did not hand out."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("v1:") or not text[3:].isalnum():
        raise InvalidInput.of("cursor", cursor[:80], "the next_cursor of the previous page, unchanged")
    return text[3:]


def all_rows(find: Callable[[str | None], SomeRows[T]]) -> Iterator[T]:
    """The rows of all pages, page after page as they are wanted; ``find`` gets the cursor of the next page."""
    cursor: str | None = None
    while True:
        page = find(cursor)
        yield from page.items
        if (cursor := page.next_cursor) is None:
            return


def fetch_page(
    connection: Connection,
    statement: Select[Any],
    order: Column[Any],
    limit: int,
    cursor: str | None,
    convert: Callable[[Any], T],
) -> Page[T]:
    """Run ``statement`` from ``cursor`` on, newest ``order`` first. ``limit`` is clipped to 1..200."""
    limit = max(1, min(limit, MAX_LIMIT))
    if cursor is not None:
        position = decode_cursor(cursor)
        numbered = order.type.python_type is int
        if numbered and not (position.isdecimal() and int(position) <= _LARGEST_ID):
            raise InvalidInput("The cursor belongs to another list.")
        statement = statement.where(order < (int(position) if numbered else position))
    rows = connection.execute(statement.order_by(order.desc()).limit(limit + 1)).all()
    more = len(rows) > limit
    last_position = rows[limit - 1]._mapping[order.name] if more else None
    return Page(
        [convert(row) for row in rows[:limit]],
        encode_cursor(last_position) if last_position is not None else None,
    )
