"""Items say themselves when a message for them is due (``publish_after``): no table of messages beside them."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
additive = False

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    items = sa.table("job_items", sa.column("id"), sa.column("publish_after", TIME))
    outbox = sa.table("outbox", sa.column("item_id"))
    waiting = items.c.id.in_(sa.select(outbox.c.item_id))
    op.execute(items.update().where(waiting).values(publish_after=datetime(1970, 1, 1, tzinfo=UTC)))
    op.drop_index("ix_outbox_item_id", "outbox")
    op.drop_index("ix_outbox_due_at", "outbox")
    op.drop_table("outbox")


def downgrade() -> None:
    # Code of before announces again what is queued and not in it.
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
