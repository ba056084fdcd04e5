"""Jobs. Who may change a state and when is decided in `allocator.store.states`; here every change is a
compare-and-set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update

from allocator.base.errors import NotFound
from allocator.store.clock import utc_in, utcnow
from allocator.store.database import Database
from allocator.store.job_tables import jobs
from allocator.store.paging import Page, fetch_page
from allocator.store.states import UNFINISHED, check_change
from allocator.store.upserts import insert_or_ignore


@dataclass(frozen=True)
class Job:
    """One job as the database holds it."""

    id: str
    """ULID: sorts by time of submission."""
    team: str
    kind: str
    """One of `allocator.base.kinds`."""
    state: str
    """See `states`."""
    stage: str | None
    """The stage entered last."""
    model: str
    """The model reference of the request, for lists."""
    request: dict[str, Any]
    """What was asked for; never changes."""
    request_sha256: str
    """Hash of kind and request: the same idempotency key with another one is an error."""
    created_by: str
    inline: bool
    """Run by the process that submitted it (``compress``); workers leave it alone."""
    weights_sha256: str | None
    profile_key: str | None
    plan_digest: str | None
    queue_reason: str | None
    """Why it waits, where the reason is not simply that workers are busy."""
    error: dict[str, Any] | None
    last_seq: int
    """Number of the newest event."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    retry_of: str | None
    """The job that this one does again."""


_COLUMNS = [jobs.c[name] for name in Job.__dataclass_fields__]


class Jobs:
    """One row per job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, **values: Any) -> bool:
        """Insert a job; False where (team, idempotency_key) is taken."""
        with self._database.write() as connection:
            return insert_or_ignore(connection, jobs, **values)

    def get(self, team: str, job_id: str) -> Job:
        """The job. Raises NotFound, also for another team's."""
        job = self._find_one(jobs.c.id == job_id, jobs.c.team == team)
        if job is None:
            raise NotFound(f"There is no job {job_id[:64]!r}.")
        return job

    def by_id(self, job_id: str) -> Job:
        """A job of any team: for the machinery, which got the id from the database. Never for a request."""
        job = self._find_one(jobs.c.id == job_id)
        assert job is not None
        return job

    def by_idempotency_key(self, team: str, key: str) -> Job | None:
        return self._find_one(jobs.c.team == team, jobs.c.idempotency_key == key)

    def _find_one(self, *conditions: Any) -> Job | None:
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(*conditions)).one_or_none()
        return None if row is None else Job(*row)

    def lock(self, job_id: str) -> Job:
        """The job, locked until the enclosing transaction ends.

        Whatever changes a job's items takes this lock first, so that siblings are counted one transaction at
        a time and no two wait for each other. SQLite has locked everything already.
        """
        with self._database.write() as connection:
            row = connection.execute(select(*_COLUMNS).where(jobs.c.id == job_id).with_for_update()).one()
        return Job(*row)

    def state(self, job_id: str) -> str:
        """The state alone, for heartbeats."""
        with self._database.read() as connection:
            return str(connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one())

    def states(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The state of each of these jobs that there is, of any team: for the machinery, never for a request."""
        statement = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(job_ids))
        with self._database.read() as connection:
            return dict(connection.execute(statement).all())

    def change(self, job_id: str, *, was: str, **values: Any) -> bool:
        """Set columns of a job that is still in state ``was``; False where it is not.

        Raises:
            Conflict: its state may not change so.
        """
        if "state" in values:
            check_change(was, values["state"])
        with self._database.write() as connection:
            statement = update(jobs).where(jobs.c.id == job_id, jobs.c.state == was).values(**values)
            return bool(connection.execute(statement).rowcount)

    def link(self, job_id: str, **columns: str) -> None:
        """Set ``weights_sha256``, ``profile_key`` or ``plan_digest``."""
        unknown = columns.keys() - {"weights_sha256", "profile_key", "plan_digest"}
        assert not unknown, f"not a link: {unknown}"
        with self._database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(**columns))

    def find(
        self,
        team: str,
        *,
        state: str | None = None,
        model: str | None = None,
        plan_digest: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Job]:
        """Jobs, newest first."""
        statement = select(*_COLUMNS).where(jobs.c.team == team)
        if plan_digest is not None:
            statement = statement.where(jobs.c.plan_digest == plan_digest)
        if state is not None:
            statement = statement.where(jobs.c.state == state)
        if model is not None:
            statement = statement.where(jobs.c.model == model)
        with self._database.read() as connection:
            return fetch_page(connection, statement, jobs.c.id, limit, cursor, lambda row: Job(*row))

    def set_queue_reason(self, job_ids: set[str], reason: str | None) -> None:
        """Say why these jobs wait (None: nothing special)."""
        with self._database.write() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(job_ids), jobs.c.queue_reason.is_distinct_from(reason))
                .values(queue_reason=reason)
            )

    def ids_with_queue_reason(self) -> set[str]:
        """Jobs that say why they wait; ended ones say nothing."""
        statement = select(jobs.c.id).where(jobs.c.state.in_(UNFINISHED), jobs.c.queue_reason.is_not(None))
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())

    def renew_inline(self, job_id: str, lease_s: float) -> None:
        """The submitting process still lives."""
        with self._database.write() as connection:
            connection.execute(
                update(jobs).where(jobs.c.id == job_id).values(inline_lease_expires_at=utc_in(lease_s))
            )

    def abandoned_inline(self) -> list[str]:
        """Unfinished inline jobs whose process has gone."""
        statement = select(jobs.c.id).where(
            jobs.c.inline,
            jobs.c.state.in_(UNFINISHED),
            jobs.c.inline_lease_expires_at < utcnow(),
        )
        with self._database.read() as connection:
            return list(connection.execute(statement).scalars())

    def unfinished(self) -> list[Job]:
        """All teams' jobs that may still run: for the machinery, never for a request."""
        statement = select(*_COLUMNS).where(jobs.c.state.in_(UNFINISHED))
        with self._database.read() as connection:
            return [Job(*row) for row in connection.execute(statement)]

    def count_open(self, team: str) -> int:
        """The number of a team's jobs that have not ended."""
        open_ones = (jobs.c.team == team) & jobs.c.state.in_(UNFINISHED)
        with self._database.read() as connection:
            return int(
                connection.execute(select(func.count()).select_from(jobs).where(open_ones)).scalar_one()
            )

    def ended_within(self, seconds: float) -> list[str]:
        """All teams' jobs that have ended since then: for the machinery, never for a request."""
        statement = select(jobs.c.id).where(jobs.c.finished_at > utc_in(-seconds))
        with self._database.read() as connection:
            return list(connection.execute(statement).scalars())

    def count_by_state(self) -> dict[str, int]:
        """Number of jobs in each state, over all teams (for metrics)."""
        statement = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        with self._database.read() as connection:
            return dict(connection.execute(statement).all())
