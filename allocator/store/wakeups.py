"""Wake-up calls for workers: a message is a call, the item's row is the truth.

A message comes at least once: an item counts as announced only after it was. One that the broker loses is announced again, with
growing pauses, so that a long queue is not filled with copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, update

from allocator.store.clock import utc_in, utcnow
from allocator.store.database import Database
from allocator.store.items import DUE
from allocator.store.job_tables import items, jobs
from allocator.store.states import OPEN

_MAX_DOUBLINGS = 6


@dataclass(frozen=True)
class Message:
    """One wake-up call: the item, and the attempt after which it is made."""

    item_id: str
    attempt: int
    job_id: str
    stage: str
    device: str | None
    """What the job's request names."""


def _due(*columns: Any) -> Select[Any]:
    """Queued items of jobs for workers that may be claimed now and were never announced, or so long ago that the message is
    taken for lost.
    """
    return (
        select(*columns)
        .join(jobs, jobs.c.id == items.c.job_id)
        .where(
            DUE,
            items.c.publish_after <= utcnow(),
            jobs.c.inline.is_(False),
            jobs.c.state.in_(OPEN),
        )
    )


class Wakeups:
    """Columns of items: ``publish_after`` and ``publications``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, limit: int = 200) -> list[Message]:
        """Messages to publish now: first those of items that were never announced, the oldest first."""
        device = jobs.c.request["device"].as_string()
        columns = (items.c.id, items.c.attempt, items.c.job_id, items.c.stage, device)
        with self._database.read() as connection:
            rows = connection.execute(_due(*columns).order_by(items.c.publish_after, items.c.id).limit(limit))
            return [Message(*row) for row in rows]

    def published(self, messages: Sequence[Message], lease_s: float) -> None:
        """Note when to doubt that they arrived. Of an item that somebody has claimed meanwhile nothing is noted: a next attempt
        is to be announced at once.

        Each in a transaction of its own: nobody who holds a job's lock has to wait for two items in turn.
        """
        for message in messages:
            with self._database.write() as connection:
                this = (items.c.id == message.item_id) & (items.c.attempt == message.attempt)
                count = connection.execute(select(items.c.publications).where(this)).scalar()
                if count is None:
                    continue
                after = utc_in(lease_s * 2 ** min(count, _MAX_DOUBLINGS))
                connection.execute(
                    update(items).where(this).values(publications=count + 1, publish_after=after)
                )

    def count(self) -> int:
        """Messages to be published now (for metrics)."""
        with self._database.read() as connection:
            return int(connection.execute(_due(func.count())).scalar_one())
