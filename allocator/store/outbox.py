"""The outbox: wake-up messages committed together with the work they announce, and published afterwards.

Deleting after publishing makes a message come at least once. A message that the broker loses is announced
again by `overdue`, with growing pauses, so that a long queue is not filled with copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from allocator.store.clock import utc_in, utcnow
from allocator.store.database import Database
from allocator.store.states import OPEN, QUEUED
from allocator.store.tables import items, jobs, outbox

_MAX_DOUBLINGS = 6


@dataclass(frozen=True)
class Message:
    """One wake-up call: the item, and the attempt after which it was made."""

    id: int
    item_id: str
    attempt: int
    job_id: str
    stage: str
    device: str | None
    """What the job's request names."""


class Outbox:
    """One row per message not yet published."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, item_id: str, attempt: int, *, delay_s: float = 0.0) -> None:
        """Announce an item, at the earliest in ``delay_s``."""
        due = utc_in(delay_s) if delay_s else utcnow()
        with self._database.write() as connection:
            connection.execute(outbox.insert().values(item_id=item_id, attempt=attempt, due_at=due))

    def due(self, limit: int = 200) -> list[Message]:
        """Messages to publish now, oldest first."""
        statement = (
            select(
                outbox.c.id,
                outbox.c.item_id,
                outbox.c.attempt,
                items.c.job_id,
                items.c.stage,
                jobs.c.request["device"].as_string(),
            )
            .join(items, items.c.id == outbox.c.item_id)
            .join(jobs, jobs.c.id == items.c.job_id)
            .where(outbox.c.due_at <= utcnow())
            .order_by(outbox.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Message(*row) for row in connection.execute(statement)]

    def published(self, messages: Sequence[Message], lease_s: float) -> None:
        """Forget published messages, and note when to doubt that they arrived.

        Each in a transaction of its own: nobody who holds a job's lock has to wait for two items in turn.
        """
        for message in messages:
            with self._database.write() as connection:
                connection.execute(delete(outbox).where(outbox.c.id == message.id))
                known = connection.execute(
                    select(items.c.publications).where(items.c.id == message.item_id)
                ).scalar_one()
                pause_s = lease_s * 2 ** min(known, _MAX_DOUBLINGS)
                connection.execute(
                    update(items)
                    .where(items.c.id == message.item_id)
                    .values(publications=known + 1, publish_after=utc_in(pause_s))
                )

    def announce_overdue(self, limit: int = 200) -> int:
        """Announce again what is due, unclaimed, and long since published (or never). Returns how many."""
        waiting = select(outbox.c.id).where(outbox.c.item_id == items.c.id)
        overdue = (
            select(items.c.id, items.c.attempt)
            .join(jobs, jobs.c.id == items.c.job_id)
            .where(
                items.c.state == QUEUED,
                items.c.not_before <= utcnow(),
                items.c.publish_after < utcnow(),
                jobs.c.inline.is_(False),
                jobs.c.state.in_(OPEN),
                ~waiting.exists(),
            )
            .limit(limit)
        )
        with self._database.write() as connection:
            rows = connection.execute(overdue).all()
            for item_id, attempt in rows:
                connection.execute(outbox.insert().values(item_id=item_id, attempt=attempt))
        return len(rows)

    def count(self) -> int:
        """Messages not yet published (for metrics)."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())
