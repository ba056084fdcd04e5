"""The audit trail: who did what to which object, written in the transaction of the act itself.

with store.transaction() as connection:
    ...
    audit.add(connection, team, caller.name, "aliased", "plan", digest, {"alias": "prod"})
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.team_tables import audit


class Entry(NamedTuple):
    """One act."""

    id: int
    actor: str
    """A member of the team; ``team/name`` for an operator from elsewhere, ``cli:login`` for the server's command line."""
    action: str
    """A verb in the past: made, imported, submitted, cancelled, shared, unshared, created, revoked, changed, removed."""
    kind: str
    """Of the object: job, profile, plan, share, token, member, team."""
    key: str
    """The object's id, key, digest or name."""
    detail: dict[str, Any]
    created_at: datetime


_COLUMNS = [audit.c[name] for name in Entry._fields]


def add(
    connection: Connection,
    team: str,
    actor: str,
    action: str,
    kind: str,
    key: str,
    detail: dict[str, Any] | None = None,
) -> None:
    """Note an act of ``team`` in the transaction of ``connection``. ``detail`` is small JSON and never holds a secret."""
    row = {"team": team, "actor": actor, "action": action, "kind": kind, "key": key, "detail": detail or {}}
    connection.execute(audit.insert().values(**row))


class Audit:
    """Append only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self,
        team: str,
        *,
        action: str | None = None,
        kind: str | None = None,
        key: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Entry]:
        """A team's entries, newest first."""
        statement = select(*_COLUMNS).where(audit.c.team == team)
        for column, value in ((audit.c.action, action), (audit.c.kind, kind), (audit.c.key, key)):
            if value is not None:
                statement = statement.where(column == value)
        with self._database.read() as connection:
            return fetch_page(connection, statement, audit.c.id, limit, cursor, lambda row: Entry(*row))
