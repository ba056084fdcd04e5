"""The first schema: models, units, profiles, plans, jobs with their items, events, outbox and artifacts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=True),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("request", DOCUMENT, nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("inline", sa.Boolean(), nullable=False),
        sa.Column("inline_lease_expires_at", TIME, nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=True),
        sa.Column("profile_key", sa.String(length=128), nullable=True),
        sa.Column("plan_digest", sa.String(length=128), nullable=True),
        sa.Column("queue_reason", sa.Text(), nullable=True),
        sa.Column("error", DOCUMENT, nullable=True),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("team", "idempotency_key", name="uq_jobs_team_idempotency_key"),
    )
    op.create_index("ix_jobs_team_model", "jobs", ["team", "model"])
    op.create_index("ix_jobs_team_state", "jobs", ["team", "state"])

    op.create_table(
        "models",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("reference", sa.String(length=512), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint(
            "team", "reference", "weights_sha256", name="uq_models_team_reference_weights_sha256"
        ),
    )
    op.create_index("ix_models_team_weights_sha256", "models", ["team", "weights_sha256"])

    op.create_table(
        "plan_measurements",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("measured", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plan_measurements"),
        sa.UniqueConstraint("team", "digest", "job_id", name="uq_plan_measurements_team_digest_job_id"),
    )
    op.create_table(
        "plans",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("profile_key", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
        sa.UniqueConstraint("team", "digest", name="uq_plans_team_digest"),
    )
    op.create_index("ix_plans_team_model", "plans", ["team", "model"])
    op.create_index("ix_plans_team_profile_key", "plans", ["team", "profile_key"])
    op.create_index("ix_plans_team_weights_sha256", "plans", ["team", "weights_sha256"])

    op.create_table(
        "profiles",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("calibration_sha256", sa.String(length=64), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_profiles"),
        sa.UniqueConstraint("team", "key", name="uq_profiles_team_key"),
    )
    op.create_index("ix_profiles_team_model", "profiles", ["team", "model"])
    op.create_index("ix_profiles_team_weights_sha256", "profiles", ["team", "weights_sha256"])

    op.create_table(
        "units",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("payload", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_units"),
        sa.UniqueConstraint("team", "key", name="uq_units_team_key"),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("relative_path", sa.String(length=1024), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        sa.UniqueConstraint("job_id", "name", name="uq_artifacts_job_id_name"),
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "job_items",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("job_id", sa.String(length=26), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("payload", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("lost_leases", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("publications", sa.Integer(), nullable=False),
        sa.Column("publish_after", TIME, nullable=False),
        sa.Column("progress_done", sa.BigInteger(), nullable=False),
        sa.Column("progress_total", sa.BigInteger(), nullable=False),
        sa.Column("progress_unit", sa.String(length=32), nullable=False),
        sa.Column("result", DOCUMENT, nullable=True),
        sa.Column("error", DOCUMENT, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_items_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_job_items"),
        sa.UniqueConstraint("job_id", "stage", "key", name="uq_job_items_job_id_stage_key"),
    )
    op.create_index("ix_job_items_state_lease_expires_at", "job_items", ["state", "lease_expires_at"])

    op.create_table(
        "outbox",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("item_id", sa.String(length=26), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["item_id"], ["job_items.id"], name="fk_outbox_item_id_job_items", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"])
    op.create_index("ix_outbox_item_id", "outbox", ["item_id"])


def downgrade() -> None:
    op.drop_index("ix_outbox_item_id", "outbox")
    op.drop_index("ix_outbox_due_at", "outbox")

    op.drop_table("outbox")
    op.drop_index("ix_job_items_state_lease_expires_at", "job_items")

    op.drop_table("job_items")
    op.drop_table("events")
    op.drop_table("artifacts")
    op.drop_table("units")
    op.drop_index("ix_profiles_team_weights_sha256", "profiles")
    op.drop_index("ix_profiles_team_model", "profiles")

    op.drop_table("profiles")
    op.drop_index("ix_plans_team_weights_sha256", "plans")
    op.drop_index("ix_plans_team_profile_key", "plans")
    op.drop_index("ix_plans_team_model", "plans")

    op.drop_table("plans")
    op.drop_table("plan_measurements")
    op.drop_index("ix_models_team_weights_sha256", "models")

    op.drop_table("models")
    op.drop_index("ix_jobs_team_state", "jobs")
    op.drop_index("ix_jobs_team_model", "jobs")

    op.drop_table("jobs")
