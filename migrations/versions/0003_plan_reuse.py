"""Plan reuse: what plans are searched by, aliases with their history, labels, comments, lineage, removed artifacts."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

INDEXES = (
    ("plans", ("team", "predicted_loss_nats")),
    ("plans", ("team", "derived_from")),
    ("jobs", ("team", "plan_digest")),
    ("plan_budgets", ("team", "metric", "limit_value")),
    ("plan_budgets", ("team", "digest")),
    ("plan_aliases", ("team", "digest")),
    ("plan_labels", ("team", "label")),
    ("plan_comments", ("team", "digest")),
)
COLUMNS = (
    ("plans", "predicted_loss_nats", sa.Double()),
    ("plans", "derived_from", sa.String(length=128)),
    ("plans", "derivation", sa.String(length=16)),
    ("jobs", "retry_of", sa.String(length=26)),
    ("artifacts", "removed_at", TIME),
)
TABLES = ("plan_budgets", "plan_aliases", "plan_alias_changes", "plan_labels", "plan_comments")


def _of_plan(table: str, *columns: "sa.Column[Any] | sa.Constraint") -> None:
    op.create_table(
        table,
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
    )


def _text(name: str, length: int, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))
    _of_plan(
        "plan_budgets",
        _text("digest", 128),
        _text("metric", 128),
        sa.Column("limit_value", sa.BigInteger(), nullable=False),
    )
    _of_plan(
        "plan_aliases",
        _text("name", 64),
        _text("digest", 128),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _text("changed_by", 128),
        sa.Column("changed_at", TIME, nullable=False),
        sa.UniqueConstraint("team", "name", name="uq_plan_aliases_team_name"),
    )
    _of_plan(
        "plan_alias_changes",
        _text("name", 64),
        sa.Column("version", sa.BigInteger(), nullable=False),
        _text("action", 16),
        _text("from_digest", 128, nullable=True),
        _text("to_digest", 128, nullable=True),
        _text("changed_by", 128),
        sa.Column("changed_at", TIME, nullable=False),
        sa.UniqueConstraint("team", "name", "version", name="uq_plan_alias_changes_team_name_version"),
    )
    _of_plan(
        "plan_labels",
        _text("digest", 128),
        _text("label", 64),
        _text("created_by", 128),
        sa.Column("created_at", TIME, nullable=False),
        sa.UniqueConstraint("team", "digest", "label", name="uq_plan_labels_team_digest_label"),
    )
    _of_plan(
        "plan_comments",
        _text("digest", 128),
        sa.Column("text", sa.Text(), nullable=False),
        _text("created_by", 128),
        sa.Column("created_at", TIME, nullable=False),
    )
    for table, columns in INDEXES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
    _fill()


def _fill() -> None:
    """Stored plans are found by the new columns too."""
    connection = op.get_bind()
    plans = sa.table(
        "plans",
        *(sa.column(name) for name in ("id", "team", "digest", "predicted_loss_nats")),
        *(sa.column(name) for name in ("derived_from", "derivation")),
        sa.column("document", DOCUMENT),
    )
    budgets = sa.table("plan_budgets", *map(sa.column, ("team", "digest", "metric", "limit_value")))
    for row in connection.execute(
        sa.select(plans.c.id, plans.c.team, plans.c.digest, plans.c.document)
    ).all():
        start = (row.document.get("refinement") or {}).get("start")
        values = {"predicted_loss_nats": (row.document.get("predicted") or {}).get("loss_nats")}
        if start:
            values |= {"derived_from": start["digest"], "derivation": "refined"}
        connection.execute(plans.update().where(plans.c.id == row.id).values(**values))
        # A document that does not say what a budget limits is kept as it is and found by other things.
        for budget in (each for each in row.document.get("budgets", []) if "metric" in each):
            named = {"team": row.team, "digest": row.digest, "metric": budget["metric"]}
            connection.execute(budgets.insert().values(limit_value=budget["limit"], **named))


def downgrade() -> None:
    for table, columns in reversed(INDEXES):
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table)
    for table in reversed(TABLES):
        op.drop_table(table)
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
