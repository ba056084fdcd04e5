"""Insert-or-ignore, whose spelling SQLAlchemy keeps per dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert(connection: Connection, table: Table) -> Any:
    """The dialect's INSERT, which knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_or_ignore(connection: Connection, table: Table, **values: Any) -> bool:
    """Insert a row unless a unique constraint forbids it. False: the row was there; nothing changed.

    Safe between processes, unlike looking first: of two that insert the same key one gets False.
    """
    statement = insert(connection, table).values(**values).on_conflict_do_nothing()
    # Not rowcount, which says nothing about an INSERT on PostgreSQL.
    return connection.execute(statement.returning(*table.primary_key.columns)).first() is not None
