"""Figures for those who run the service: what waits, for how long, what was lost, how long stages take. Over all teams."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import and_, func, select

from allocator.store.clock import seconds_between, utc_in, utcnow
from allocator.store.database import Database
from allocator.store.items import DUE
from allocator.store.job_tables import items, jobs
from allocator.store.states import OPEN, RUNNING, SUCCEEDED


@dataclass(frozen=True)
class OpenWork:
    """Items of jobs for workers, as they stand now."""

    due: int
    """Queued and due: a free worker could take them."""
    oldest_wait_s: float
    """How long the first of them has been due; 0 where nothing is."""
    running: int
    """With a live lease."""
    silent: int
    """Running by their state, but their lease has run out and nobody has given them back yet."""


@dataclass(frozen=True)
class StageTime:
    """Items of one stage that have succeeded lately."""

    stage: str
    items: int
    seconds: float
    """Sum over the items."""
    longest_s: float


class Operations:
    """Aggregates for metrics, readiness and ``doctor``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def work(self) -> OpenWork:
        live = items.c.lease_expires_at >= utcnow()
        running = items.c.state == RUNNING
        # An item is due since its creation, or since the pause after its last failure.
        since = seconds_between(func.min(items.c.not_before).filter(DUE), utcnow())
        statement = (
            select(
                func.count().filter(DUE),
                since,
                func.count().filter(and_(running, live)),
                func.count().filter(and_(running, ~live)),
            )
            .select_from(items.join(jobs, jobs.c.id == items.c.job_id))
            .where(items.c.state.in_(OPEN), jobs.c.state.in_(OPEN), jobs.c.inline.is_(False))
        )
        with self._database.read() as connection:
            waiting, oldest, working, silent = connection.execute(statement).one()
        return OpenWork(waiting, max(float(oldest or 0.0), 0.0), working, silent)

    def stage_times(self, *, hours: float) -> list[StageTime]:
        """The times of stages, over the items that ended in the last ``hours``."""
        took = seconds_between(items.c.started_at, items.c.finished_at)
        statement = (
            select(items.c.stage, func.count(), func.sum(took), func.max(took))
            .where(items.c.finished_at > utc_in(-3600.0 * hours), items.c.state == SUCCEEDED)
            .group_by(items.c.stage)
            .order_by(items.c.stage)
        )
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [
            StageTime(stage, count, float(total or 0), float(most or 0)) for stage, count, total, most in rows
        ]

    def lost_leases(self, *, hours: float) -> int:
        """The number of leases lost by items that ended in the last ``hours`` or have not ended."""
        recent = items.c.finished_at > utc_in(-3600.0 * hours)
        lost = func.coalesce(func.sum(items.c.lost_leases), 0)
        with self._database.read() as connection:
            ended = connection.execute(select(lost).where(recent)).scalar_one()
            still = connection.execute(select(lost).where(items.c.state.in_(OPEN))).scalar_one()
        return int(ended) + int(still)

    def profiles(self, *, hours: float) -> dict[str, int]:
        """Jobs of the last ``hours`` that found their profile in the store (``hit``) or had to measure (``miss``)."""
        statement = select(items.c.result).where(
            items.c.finished_at > utc_in(-3600.0 * hours),
            items.c.stage == "assemble",
            items.c.state == SUCCEEDED,
        )
        counts = {"hit": 0, "miss": 0}
        with self._database.read() as connection:
            for (result,) in connection.execute(statement):
                counts["hit" if (result or {}).get("reused") else "miss"] += 1
        return counts

    def clock_skew_s(self) -> float:
        """The seconds that this machine's clock is ahead of the database's. Leases do not depend on it; logs do."""
        with self._database.read() as connection:
            database_time = connection.execute(select(utcnow())).scalar_one()
        return (datetime.now(UTC) - database_time).total_seconds()
