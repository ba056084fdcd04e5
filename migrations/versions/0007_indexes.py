"""Indexes of the questions that are asked all the time ; tests/allocator/store/test_query_plans.py has each explained."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REPLACED = (
    ("jobs", ["team", "state"], ["team", "state", "id"]),
    ("jobs", ["team", "model"], ["team", "model", "id"]),
    ("profiles", ["team", "model"], ["team", "model", "id"]),
    ("profiles", ["team", "weights_sha256"], ["team", "weights_sha256", "id"]),
    ("plans", ["team", "profile_key"], ["team", "profile_key", "id"]),
    ("plans", ["team", "model"], ["team", "model", "id"]),
    ("plans", ["team", "weights_sha256"], ["team", "weights_sha256", "id"]),
)
ADDED = (
    ("jobs", ["team", "id"]),
    ("jobs", ["state"]),
    ("profiles", ["team", "id"]),
    ("plans", ["team", "id"]),
    ("job_items", ["state", "publish_after"]),
)


def _name(table: str, columns: list[str]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"


def upgrade() -> None:
    for table, old, new in REPLACED:
        op.drop_index(_name(table, old), table)
        op.create_index(_name(table, new), table, new)
    for table, columns in ADDED:
        op.create_index(_name(table, columns), table, columns)


def downgrade() -> None:
    for table, columns in reversed(ADDED):
        op.drop_index(_name(table, columns), table)
    for table, old, new in reversed(REPLACED):
        op.drop_index(_name(table, new), table)
        op.create_index(_name(table, old), table, old)
