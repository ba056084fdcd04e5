"""The tables of teams: who belongs to them, with what they log in, what they share, and what was done."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, String, Table

from allocator.store.clock import UTCDateTime, utcnow
from allocator.store.tables import JsonDocument, RowId, metadata


def _time(name: str) -> Column[object]:
    return Column(name, UTCDateTime, nullable=False, default=utcnow())


teams = Table(
    "teams",
    metadata,
    Column("name", String(64), primary_key=True),
    _time("created_at"),
)

members = Table(
    "members",
    metadata,
    Column("team", ForeignKey(teams.c.name), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    _time("created_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("team", ForeignKey(teams.c.name), nullable=False),
    Column("name", String(64), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("created_by", String(128), nullable=False),
    _time("created_at"),
    Column("expires_at", UTCDateTime),
    Column("revoked_at", UTCDateTime),
    Column("last_used_at", UTCDateTime),
    Index(None, "team", "name"),
)

shares = Table(
    "shares",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("team", ForeignKey(teams.c.name), nullable=False),
    Column("with_team", ForeignKey(teams.c.name), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("key", String(128), nullable=False),
    Column("created_by", String(128), nullable=False),
    _time("created_at"),
    Column("revoked_at", UTCDateTime),
    Column("revoked_by", String(128)),
    Index(None, "team", "kind", "key"),
    Index(None, "with_team", "kind", "key"),
)
# One live share of the same thing with the same team; those that were undone stay as history.
Index(
    "uq_shares_live",
    *(shares.c[name] for name in ("team", "with_team", "kind", "key")),
    unique=True,
    sqlite_where=shares.c.revoked_at.is_(None),
    postgresql_where=shares.c.revoked_at.is_(None),
)

audit = Table(
    "audit",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("team", String(64), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("key", String(255), nullable=False),
    Column("detail", JsonDocument, nullable=False),
    _time("created_at"),
    Index(None, "team", "kind", "key"),
)
