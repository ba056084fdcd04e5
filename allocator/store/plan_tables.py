"""The tables of profiles and plans, and of what people and jobs write beside plans."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from allocator.store.clock import UTCDateTime, utcnow
from allocator.store.tables import JsonDocument, created_column, metadata, row_id_column, team_column

profiles = Table(
    "profiles",
    metadata,
    row_id_column(),
    team_column(),
    Column("key", String(128), nullable=False),
    Column("model", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("calibration_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    created_column(),
    UniqueConstraint("team", "key"),
    Index(None, "team", "id"),
    Index(None, "team", "weights_sha256", "id"),
    Index(None, "team", "model", "id"),
)

plans = Table(
    "plans",
    metadata,
    row_id_column(),
    team_column(),
    Column("digest", String(128), nullable=False),
    Column("profile_key", String(128), nullable=False),
    Column("model", String(512), nullable=False),
    Column("weights_sha256", String(64), nullable=False),
    Column("document", JsonDocument, nullable=False),
    Column("created_by", String(128), nullable=False),
    created_column(),
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
    row_id_column(),
    team_column(),
    Column("digest", String(128), nullable=False),
    Column("metric", String(128), nullable=False),
    Column("limit_value", BigInteger, nullable=False),
    Index(None, "team", "metric", "limit_value"),
    Index(None, "team", "digest"),
)

plan_aliases = Table(
    "plan_aliases",
    metadata,
    row_id_column(),
    team_column(),
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
    row_id_column(),
    team_column(),
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
    row_id_column(),
    team_column(),
    Column("digest", String(128), nullable=False),
    Column("label", String(64), nullable=False),
    Column("created_by", String(128), nullable=False),
    created_column(),
    UniqueConstraint("team", "digest", "label"),
    Index(None, "team", "label"),
)

plan_comments = Table(
    "plan_comments",
    metadata,
    row_id_column(),
    team_column(),
    Column("digest", String(128), nullable=False),
    Column("text", Text, nullable=False),
    Column("created_by", String(128), nullable=False),
    created_column(),
    Index(None, "team", "digest"),
)

latency_tables = Table(
    "latency_tables",
    metadata,
    row_id_column(),
    team_column(),
    Column("digest", String(64), nullable=False),
    Column("device", String(255), nullable=False),
    Column("document", JsonDocument, nullable=False),
    Column("created_by", String(128), nullable=False),
    created_column(),
    UniqueConstraint("team", "digest"),
)

plan_measurements = Table(
    "plan_measurements",
    metadata,
    row_id_column(),
    team_column(),
    Column("digest", String(128), nullable=False),
    Column("job_id", String(26), nullable=False),
    Column("measured", JsonDocument, nullable=False),
    created_column(),
    UniqueConstraint("team", "digest", "job_id"),
)
