"""Job items: the pieces of work, their leases and results.

An item is owned by its attempt number. `claim` raises it and writes owner and lease in the same statement;
every later write carries it, so a worker that was thought dead finds that its writes touch no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, func, or_, select, update

from allocator.store.clock import EPOCH, utc_in, utcnow
from allocator.store.database import Database
from allocator.store.job_tables import items, jobs
from allocator.store.states import CANCELLED, OPEN, QUEUED, RUNNING, SUCCEEDED


@dataclass(frozen=True)
class Item:
    """One piece of work as the database holds it."""

    id: str
    job_id: str
    stage: str
    position: int
    key: str
    """Unique within job and stage."""
    payload: dict[str, Any]
    state: str
    """queued, running, succeeded, failed, crashed or cancelled."""
    attempt: int
    """How often it was claimed: the fence."""
    failures: int
    lost_leases: int
    lease_owner: str
    lease_expires_at: datetime
    progress_done: int
    progress_total: int
    progress_unit: str
    error: dict[str, Any] | None


@dataclass(frozen=True)
class Progress:
    """The part of an item that tells how far its stage has come."""

    job_id: str
    state: str
    progress_done: int
    progress_total: int
    progress_unit: str
    payload: dict[str, Any]


DUE = and_(items.c.state == QUEUED, items.c.not_before <= utcnow())
"""The condition of an item that waits and may be claimed now."""
_COLUMNS = [items.c[name] for name in Item.__dataclass_fields__]
_PROGRESS = [items.c[name] for name in Progress.__dataclass_fields__]


class Items:
    """One row per item."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._database.write() as connection:
            connection.execute(items.insert(), [{"state": QUEUED, **row} for row in rows])

    def get(self, item_id: str) -> Item | None:
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(items.c.id == item_id)).one_or_none()
        return None if row is None else Item(*row)

    def of_stage(self, job_id: str, stage: str) -> list[Item]:
        """A stage's items in order."""
        statement = select(*_COLUMNS).where(items.c.job_id == job_id, items.c.stage == stage)
        with self._database.read() as connection:
            return [Item(*row) for row in connection.execute(statement.order_by(items.c.position))]

    def of_present_stages(self, job_ids: Sequence[str]) -> dict[str, list[Progress]]:
        """Job id -> the items of the stage that it entered last, for a page of jobs at once."""
        items_by_job: dict[str, list[Progress]] = {job_id: [] for job_id in job_ids}
        statement = (
            select(*_PROGRESS)
            .join(jobs, (jobs.c.id == items.c.job_id) & (jobs.c.stage == items.c.stage))
            .where(jobs.c.id.in_(job_ids))
            .order_by(items.c.job_id, items.c.position)
        )
        with self._database.read() as connection:
            for row in connection.execute(statement):
                items_by_job[row.job_id].append(Progress(*row))
        return items_by_job

    def results(self, job_id: str) -> dict[str, list[dict[str, Any]]]:
        """Stage -> results of its items in order, of the items that succeeded."""
        statement = select(items.c.stage, items.c.result).where(
            items.c.job_id == job_id, items.c.state == SUCCEEDED
        )
        results: dict[str, list[dict[str, Any]]] = {}
        with self._database.read() as connection:
            for stage, result in connection.execute(statement.order_by(items.c.stage, items.c.position)):
                results.setdefault(stage, []).append(result)
        return results

    def claim(
        self,
        item_id: str,
        owner: str,
        lease_s: float,
        *,
        attempt: int | None,
        inline: bool,
        max_lost_leases: int,
    ) -> Item | None:
        """Take an item: one statement writes state, attempt, owner and lease. None: it is not to be had.

        To be had is an item that is queued and due, or running without a live lease, of a job that may still
        run. ``attempt`` (from a message) must be the stored one: older messages speak of attempts long gone.
        """
        orphaned = and_(
            items.c.state == RUNNING,
            items.c.lease_expires_at < utcnow(),
            # The last permitted loss is the reconciler's to judge: it ends the job.
            items.c.lost_leases + 1 < max_lost_leases,
        )
        job_open = select(jobs.c.id).where(
            jobs.c.id == items.c.job_id, jobs.c.state.in_(OPEN), jobs.c.inline.is_(inline)
        )
        conditions = [items.c.id == item_id, or_(DUE, orphaned), job_open.exists()]
        if attempt is not None:
            conditions.append(items.c.attempt == attempt)
        statement = (
            update(items)
            .where(*conditions)
            .values(
                state=RUNNING,
                attempt=items.c.attempt + 1,
                # Seen from here a claim of a running item means that its owner went silent.
                lost_leases=items.c.lost_leases + case((items.c.state == RUNNING, 1), else_=0),
                lease_owner=owner,
                lease_expires_at=utc_in(lease_s),
                started_at=utcnow(),
                progress_done=0,
                progress_total=0,
            )
            .returning(*_COLUMNS)
        )
        with self._database.write() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else Item(*row)

    def renew(
        self, item_id: str, attempt: int, lease_s: float, progress: tuple[int, int, str] | None = None
    ) -> bool:
        """Prolong the lease and store progress; False where another attempt owns the item."""
        values: dict[str, Any] = {"lease_expires_at": utc_in(lease_s)}
        if progress is not None:
            values |= dict(zip(("progress_done", "progress_total", "progress_unit"), progress, strict=True))
        return self.change(item_id, attempt, **values)

    def change(self, item_id: str, attempt: int, *, expired: bool = False, **values: Any) -> bool:
        """Set columns of an item this attempt still runs; False where it does not.

        ``expired``: only if its lease has run out. Whoever judges by a lease that it read must say so, since it may have
        been renewed meanwhile.
        """
        statement = update(items).where(
            items.c.id == item_id, items.c.attempt == attempt, items.c.state == RUNNING
        )
        if expired:
            statement = statement.where(items.c.lease_expires_at < utcnow())
        with self._database.write() as connection:
            return bool(connection.execute(statement.values(**values)).rowcount)

    def owns(self, item_id: str, attempt: int) -> bool:
        """Whether this attempt still runs the item."""
        own = (items.c.id == item_id) & (items.c.attempt == attempt) & (items.c.state == RUNNING)
        with self._database.read() as connection:
            return connection.execute(select(items.c.id).where(own)).scalar() is not None

    def finish(self, item_id: str, attempt: int, state: str, **values: Any) -> bool:
        """End an item this attempt still runs; False where it does not."""
        return self.change(
            item_id,
            attempt,
            state=state,
            lease_expires_at=EPOCH,
            lease_owner="",
            finished_at=utcnow(),
            **values,
        )

    def requeue(self, item_id: str, attempt: int, *, delay_s: float = 0.0, **values: Any) -> bool:
        """Give up an item so that it can be claimed again after ``delay_s``, and is announced then; False where it is not this
        attempt's.
        """
        return self.change(
            item_id,
            attempt,
            state=QUEUED,
            lease_expires_at=EPOCH,
            lease_owner="",
            not_before=utc_in(delay_s) if delay_s else utcnow(),
            publish_after=EPOCH,
            **values,
        )

    def cancel_queued(self, job_id: str) -> None:
        """Cancel the items of a job that nobody runs."""
        statement = update(items).where(items.c.job_id == job_id, items.c.state == QUEUED)
        with self._database.write() as connection:
            connection.execute(statement.values(state=CANCELLED, finished_at=utcnow()))

    def count(self, job_id: str, *states: str) -> int:
        """The number of a job's items in one of ``states`` (none given: queued or running)."""
        condition = (items.c.job_id == job_id) & items.c.state.in_(states or OPEN)
        with self._database.read() as connection:
            return int(
                connection.execute(select(func.count()).select_from(items).where(condition)).scalar_one()
            )

    def in_hand(self, job_id: str) -> bool:
        """Whether somebody runs an item of the job under a lease that has not run out."""
        held = (
            (items.c.job_id == job_id) & (items.c.state == RUNNING) & (items.c.lease_expires_at >= utcnow())
        )
        with self._database.read() as connection:
            return connection.execute(select(items.c.id).where(held).limit(1)).scalar() is not None

    def orphans(self, limit: int = 200) -> list[Item]:
        """Running items of jobs for workers whose lease has run out."""
        return self._running(items.c.lease_expires_at < utcnow(), limit)

    def owned_by(self, owner: str, limit: int = 200) -> list[Item]:
        """Running items of jobs for workers held under this name."""
        return self._running(items.c.lease_owner == owner, limit)

    def _running(self, condition: Any, limit: int) -> list[Item]:
        statement = (
            select(*_COLUMNS)
            .join(jobs, jobs.c.id == items.c.job_id)
            .where(items.c.state == RUNNING, jobs.c.inline.is_(False), condition)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [Item(*row) for row in connection.execute(statement)]

    def count_by_state(self) -> dict[str, int]:
        """Number of items in each state, over all teams (for metrics)."""
        statement = select(items.c.state, func.count()).group_by(items.c.state)
        with self._database.read() as connection:
            return dict(connection.execute(statement).all())
