"""The tables of jobs: their items, events and artifacts."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from allocator.store.clock import EPOCH, UTCDateTime, utcnow
from allocator.store.tables import JsonDocument, created_column, metadata, row_id_column, team_column

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(26), primary_key=True),
    team_column(),
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
    created_column(),
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
    created_column(),
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
    created_column(),
)

artifacts = Table(
    "artifacts",
    metadata,
    row_id_column(),
    team_column(),
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("relative_path", String(1024), nullable=False),
    created_column(),
    Column("removed_at", UTCDateTime),
    UniqueConstraint("job_id", "name"),
)
