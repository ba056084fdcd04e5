"""Plans: immutable documents named by their digest; measurements of them are rows of their own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.errors import NotFound
from allocator.store import audit
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.shares import listed, provenance, summary_of, visible
from allocator.store.tables import plan_measurements, plans
from allocator.store.upserts import insert, insert_or_ignore

_SUMMARY = (
    plans.c.id,
    plans.c.team,
    plans.c.digest,
    plans.c.profile_key,
    plans.c.model,
    plans.c.weights_sha256,
    plans.c.created_by,
    plans.c.created_at,
)


class Plans:
    """One row per (team, digest). A team sees its own, and those shared with it, which say so in ``shared_by``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, digest: str, document: dict[str, Any], *, created_by: str) -> bool:
        """Store a plan; False where the same plan is stored already (its first author stays).

        ``document`` carries ``model.reference``, ``model.weights_sha256`` and ``profile_key``.
        """
        with self._database.write() as connection:
            new = insert_or_ignore(
                connection,
                plans,
                team=team,
                digest=digest,
                profile_key=document.get("profile_key") or "",
                model=document["model"]["reference"],
                weights_sha256=document["model"]["weights_sha256"],
                document=document,
                created_by=created_by,
            )
            if new:
                audit.add(connection, team, created_by, "made", "plan", digest)
        return new

    def get(self, team: str, digest: str) -> dict[str, Any]:
        """The document as it was stored; of a shared one with ``shared_by``. Raises NotFound."""
        row = self._row(team, digest)
        return {**row.document, **provenance(team, row.team)}

    def summary(self, team: str, digest: str) -> dict[str, Any]:
        """Author, time and the columns of a plan, without its document. Raises NotFound."""
        row = self._row(team, digest)
        return {name: value for name, value in summary_of(row, team).items() if name != "document"}

    def _row(self, team: str, digest: str) -> Any:
        wanted = visible(team, "plan") & (plans.c.digest == digest)
        with self._database.read() as connection:
            row = connection.execute(select(plans).where(wanted)).one_or_none()
        if row is None:
            raise NotFound(f"There is no plan {digest!r}. `GET /v1/plans` lists what there is.")
        return row

    def find(
        self,
        team: str,
        *,
        profile_key: str | None = None,
        model: str | None = None,
        weights_sha256: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Summaries (all columns but the document; ``shared_by`` a team or None), newest first."""
        statement = select(*_SUMMARY).where(listed(team, "plan"))
        for column, value in (
            (plans.c.profile_key, profile_key),
            (plans.c.model, model),
            (plans.c.weights_sha256, weights_sha256),
        ):
            if value is not None:
                statement = statement.where(column == value)
        with self._database.read() as connection:
            return fetch_page(
                connection, statement, plans.c.id, limit, cursor, lambda row: summary_of(row, team)
            )

    def add_measurement(self, team: str, digest: str, job_id: str, measured: dict[str, Any]) -> None:
        """Record what a job measured on the applied plan; a repeated item of the same job replaces its own
        row.
        """
        with self._database.write() as connection:
            statement = insert(connection, plan_measurements).values(
                team=team, digest=digest, job_id=job_id, measured=measured
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["team", "digest", "job_id"],
                    set_={"measured": statement.excluded.measured, "created_at": utcnow()},
                )
            )

    def measurements(self, team: str, digest: str) -> list[dict[str, Any]]:
        """All measurements of a plan, oldest first: ``{job_id, measured, created_at}``. Of a shared plan, its owner's."""
        columns = (plan_measurements.c.job_id, plan_measurements.c.measured, plan_measurements.c.created_at)
        owner = select(plans.c.team).where(visible(team, "plan"), plans.c.digest == digest).scalar_subquery()
        wanted = (plan_measurements.c.team == owner) & (plan_measurements.c.digest == digest)
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(wanted).order_by(plan_measurements.c.id))
            return [dict(row._mapping) for row in rows]
