"""Latency tables: immutable documents named by their digest."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.base.errors import NotFound
from allocator.plan.model.latency import LatencyTable
from allocator.store import audit
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import latency_tables
from allocator.store.upserts import insert_or_ignore


class LatencyTables:
    """One row per (team, digest)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, table: LatencyTable, *, created_by: str) -> bool:
        """Store a table; False where it is stored already."""
        with self._database.write() as connection:
            new = insert_or_ignore(
                connection,
                latency_tables,
                team=team,
                digest=table.digest,
                device=f"{table.machine.device}: {table.machine.name}",
                document=table.document,
                created_by=created_by,
            )
            if new:
                audit.add(connection, team, created_by, "imported", "latency table", table.digest)
            return new

    def get(self, team: str, digest: str) -> LatencyTable:
        """The table. Raises NotFound."""
        return LatencyTable.stored(self.document(team, digest))

    def document(self, team: str, digest: str) -> dict[str, Any]:
        """The document that `get` reads, as it is stored: to be handed on as it is. Raises NotFound."""
        own = (latency_tables.c.team == team) & (latency_tables.c.digest == digest)
        with self._database.read() as connection:
            document = connection.execute(select(latency_tables.c.document).where(own)).scalar()
        if document is None:
            raise NotFound(
                f"There is no latency table {digest!r}. `GET /v1/latency-tables` lists what there is."
            )
        return dict(document)

    def table(self, team: str, digest: str | None) -> LatencyTable | None:
        """The table that budgets on time are counted in; None where no digest is named. Raises NotFound."""
        return None if digest is None else self.get(team, digest)

    def find(self, team: str, *, limit: int = 50, cursor: str | None = None) -> Page[dict[str, Any]]:
        """``{digest, device, created_by, created_at}`` of every table, newest first."""
        c = latency_tables.c
        statement = select(c.id, c.digest, c.device, c.created_by, c.created_at).where(c.team == team)
        with self._database.read() as connection:
            return fetch_page(connection, statement, c.id, limit, cursor, _summary)


def _summary(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "id"}
