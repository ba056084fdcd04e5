"""Items by when they ended: what metrics and `doctor` ask of the last day. The number 0004 was never given."""

from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_job_items_finished_at", "job_items", ["finished_at"])


def downgrade() -> None:
    op.drop_index("ix_job_items_finished_at", "job_items")
