"""The tables: what all have in common, and those of models and units.

Every row a user can see has a team; what is filtered on is a column, the rest is one JSON document.

Times are the database's own (`clock`). ``Identity`` columns give lists a stable order for their cursors.

An index is here for a question that is asked all the time; those that end in ``id`` give a list its order too, so that a page
costs the same however long the list is. `tests/allocator/store/test_query_plans.py` has the databases explain each.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from allocator.store.clock import UTCDateTime, utcnow

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

JsonDocument = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite numbers rows by itself only in a column that is exactly INTEGER PRIMARY KEY.
RowId = BigInteger().with_variant(Integer, "sqlite")


def row_id_column() -> Column[int]:
    """The number of a row: gives lists a stable order."""
    return Column("id", RowId, primary_key=True, autoincrement=True)


def team_column() -> Column[str]:
    """The team that a row belongs to."""
    return Column("team", String(64), nullable=False)


def created_column() -> Column[Any]:
    """The database's time of an insert."""
    return Column("created_at", UTCDateTime, nullable=False, default=utcnow())


schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("revision", String(32), primary_key=True),
    Column("oldest_code", String(32), nullable=False),
)
"""One row, written by migrations: the revision, and that of the oldest code which works with it (`migrate.check`)."""

models = Table(
    "models",
    metadata,
    row_id_column(),
    team_column(),
    Column("reference", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    created_column(),
    Column("seen_at", UTCDateTime, nullable=False, default=utcnow()),
    UniqueConstraint("team", "reference", "weights_sha256"),
    Index(None, "team", "weights_sha256"),
)

units = Table(
    "units",
    metadata,
    row_id_column(),
    team_column(),
    Column("key", String(128), nullable=False),
    Column("payload", JsonDocument, nullable=False),
    created_column(),
    UniqueConstraint("team", "key"),
)
