"""Events: what happened to a job, numbered 1, 2, 3 ... without gaps, for people and for resuming streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from allocator.store.database import Database
from allocator.store.job_tables import events, jobs


@dataclass(frozen=True)
class Event:
    """One line of a job's history."""

    seq: int
    """Position in the job's history, from 1."""
    type: str
    """Dotted slug, for programs."""
    message: str
    """A sentence, for people."""
    data: dict[str, Any]
    """Details by type."""
    created_at: datetime
    """The database's time."""


class Events:
    """Append only. A number is given and stored in one transaction that locks the job, hence no gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, job_id: str, type: str, message: str, data: dict[str, Any] | None = None) -> int:
        """Append and return the number; joins the caller's transaction if there is one."""
        with self._database.write() as connection:
            seq = connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id)
                .values(last_seq=jobs.c.last_seq + 1)
                .returning(jobs.c.last_seq)
            ).scalar_one()
            connection.execute(
                events.insert().values(job_id=job_id, seq=seq, type=type, message=message, data=data or {})
            )
            return int(seq)

    def list(
        self, team: str, job_id: str, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> list[Event]:
        """Events numbered above ``after``, in order; of these types alone where they are named."""
        columns = (events.c.seq, events.c.type, events.c.message, events.c.data, events.c.created_at)
        statement = (
            select(*columns)
            .join(jobs, jobs.c.id == events.c.job_id)
            .where(jobs.c.team == team, events.c.job_id == job_id, events.c.seq > after)
            .order_by(events.c.seq)
            .limit(limit)
        )
        if types is not None:
            statement = statement.where(events.c.type.in_(types))
        with self._database.read() as connection:
            return [Event(*row) for row in connection.execute(statement)]
