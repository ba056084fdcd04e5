"""The tables. Every row a user can see has a team; what is filtered on is a column, the rest is one JSON
document.

Times are the database's own (`clock`). ``Identity`` columns give lists a stable order for their cursors.

An index is here for a question that is asked all the time; those that end in ``id`` give a list its order too, so that a page
costs the same however long the list is. `tests/allocator/store/test_query_plans.py` has the databases explain each.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from allocator.store.clock import EPOCH, UTCDateTime, utcnow

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


def _row_id() -> Column[int]:
    return Column("id", RowId, primary_key=True, autoincrement=True)


def _team() -> Column[str]:
    return Column("team", String(64), nullable=False)


def _created() -> Column[Any]:
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
    _row_id(),
    _team(),
    Column("reference", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    _created(),
    Column("seen_at", UTCDateTime, nullable=False, default=utcnow()),
    UniqueConstraint("team", "reference", "weights_sha256"),
    Index(None, "team", "weights_sha256"),
)

units = Table(
    "units",
    metadata,
    _row_id(),
    _team(),
    Column("key", String(128), nullable=False),
    Column("payload", JsonDocument, nullable=False),
    _created(),
    UniqueConstraint("team", "key"),
)

profiles = Table(
    "profiles",
    metadata,
    _row_id(),
    _team(),
    Column("key", String(128), nullable=False),
    Column("model", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("calibration_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    _created(),
    UniqueConstraint("team", "key"),
    Index(None, "team", "id"),
    Index(None, "team", "weights_sha256", "id"),
    Index(None, "team", "model", "id"),
)

plans = Table(
    "plans",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(128), nullable=False),
    Column("profile_key", String(128), nullable=False),
    Column("model", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    Column("created_by", String(128), nullable=False),
    _created(),
    Column("predicted_loss_nats", Double),
    Column("derived_from", String(128)),
    Column("derivation", String(16)),
    UniqueConstraint("team", "digest"),
    Index(None, "team", "id"),
    Index(None, "team", "profile_key", "id"),
    Index(None, "team", "model", "id"),
    Index(None, "team", "weights_sha256", "id"),
    Index(None, "team", "predicted_loss_nats"),
    Index(None, "team", "derived_from"),
)

plan_budgets = Table(
    "plan_budgets",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(128), nullable=False),
    Column("metric", String(128), nullable=False),
    Column("limit_value", BigInteger, nullable=False),
    Index(None, "team", "metric", "limit_value"),
    Index(None, "team", "digest"),
)

plan_aliases = Table(
    "plan_aliases",
    metadata,
    _row_id(),
    _team(),
    Column("name", String(64), nullable=False),
    Column("digest", String(128), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("changed_by", String(128), nullable=False),
    Column("changed_at", UTCDateTime, nullable=False, default=utcnow()),
    UniqueConstraint("team", "name"),
    Index(None, "team", "digest"),
)

plan_alias_changes = Table(
    "plan_alias_changes",
    metadata,
    _row_id(),
    _team(),
    Column("name", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("action", String(16), nullable=False),
    Column("from_digest", String(128)),
    Column("to_digest", String(128)),
    Column("changed_by", String(128), nullable=False),
    Column("changed_at", UTCDateTime, nullable=False, default=utcnow()),
    UniqueConstraint("team", "name", "version"),
)

plan_labels = Table(
    "plan_labels",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(128), nullable=False),
    Column("label", String(64), nullable=False),
    Column("created_by", String(128), nullable=False),
    _created(),
    UniqueConstraint("team", "digest", "label"),
    Index(None, "team", "label"),
)

plan_comments = Table(
    "plan_comments",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(128), nullable=False),
    Column("text", Text, nullable=False),
    Column("created_by", String(128), nullable=False),
    _created(),
    Index(None, "team", "digest"),
)

latency_tables = Table(
    "latency_tables",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(64), nullable=False),
    Column("device", String(255), nullable=False),
    Column("document", JsonDocument, nullable=False),
    Column("created_by", String(128), nullable=False),
    _created(),
    UniqueConstraint("team", "digest"),
)

plan_measurements = Table(
    "plan_measurements",
    metadata,
    _row_id(),
    _team(),
    Column("digest", String(128), nullable=False),
    Column("job_id", String(26), nullable=False),
    Column("measured", JsonDocument, nullable=False),
    _created(),
    UniqueConstraint("team", "digest", "job_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    _team(),
    Column("kind", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(32)),
    Column("model", String(512), nullable=False),
    Column("request", JsonDocument, nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("idempotency_key", String(255)),
    Column("created_by", String(128), nullable=False),
    Column("inline", Boolean, nullable=False),
    Column("inline_lease_expires_at", UTCDateTime, nullable=False, default=EPOCH),
    Column("weights_sha256", String(64)),
    Column("profile_key", String(128)),
    Column("plan_digest", String(128)),
    Column("queue_reason", Text),
    Column("error", JsonDocument),
    Column("last_seq", BigInteger, nullable=False, default=0),
    _created(),
    Column("started_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    Column("retry_of", String(26)),
    UniqueConstraint("team", "idempotency_key"),
    Index(None, "team", "id"),
    Index(None, "team", "state", "id"),
    Index(None, "team", "model", "id"),
    Index(None, "state"),  # dispatcher and reconciler look for open jobs of all teams several times a second
    Index(None, "team", "plan_digest"),
)

items = Table(
    "job_items",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("position", Integer, nullable=False),
    Column("key", String(128), nullable=False),
    Column("payload", JsonDocument, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("lost_leases", Integer, nullable=False, default=0),
    Column("lease_owner", String(128), nullable=False, default=""),
    Column("lease_expires_at", UTCDateTime, nullable=False, default=EPOCH),
    Column("not_before", UTCDateTime, nullable=False, default=utcnow()),
    Column("publications", Integer, nullable=False, default=0),
    Column("publish_after", UTCDateTime, nullable=False, default=EPOCH),
    Column("progress_done", BigInteger, nullable=False, default=0),
    Column("progress_total", BigInteger, nullable=False, default=0),
    Column("progress_unit", String(32), nullable=False, default=""),
    Column("result", JsonDocument),
    Column("error", JsonDocument),
    _created(),
    Column("started_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    UniqueConstraint("job_id", "stage", "key"),
    Index(None, "state", "lease_expires_at"),  # whose worker has gone
    Index(None, "state", "publish_after"),  # whom to announce: not every queued item, five times a second
    Index(None, "finished_at"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JsonDocument, nullable=False),
    _created(),
)

artifacts = Table(
    "artifacts",
    metadata,
    _row_id(),
    _team(),
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("relative_path", String(1024), nullable=False),
    _created(),
    Column("removed_at", UTCDateTime),
    UniqueConstraint("job_id", "name"),
)
