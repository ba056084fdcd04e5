"""Teams, members, tokens, shares and the audit trail.

Every team that owns rows already becomes a row of ``teams``. Going back forgets all tokens: the store is then one on which
nobody has to log in, and is served on loopback only.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OWNERS = ("models", "units", "profiles", "plans", "plan_measurements", "jobs", "artifacts")
NOW = {"sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')", "postgresql": "clock_timestamp()"}


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_teams"),
    )
    known = " UNION ".join(f"SELECT team FROM {table}" for table in OWNERS)  # noqa: S608 - names of ours
    now = NOW[op.get_bind().dialect.name]
    op.execute(
        f"INSERT INTO teams (name, created_at) SELECT team, {now}"  # noqa: S608
        f" FROM ({known} UNION SELECT 'default') AS known"
    )
    op.create_table(
        "members",
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["team"], ["teams.name"], name="fk_members_team_teams"),
        sa.PrimaryKeyConstraint("team", "name", name="pk_members"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["team"], ["teams.name"], name="fk_tokens_team_teams"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("sha256", name="uq_tokens_sha256"),
    )
    op.create_index("ix_tokens_team_name", "tokens", ["team", "name"])
    op.create_table(
        "shares",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("with_team", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("revoked_by", sa.String(length=128), nullable=True),
        sa.ForeignKeyConstraint(["team"], ["teams.name"], name="fk_shares_team_teams"),
        sa.ForeignKeyConstraint(["with_team"], ["teams.name"], name="fk_shares_with_team_teams"),
        sa.PrimaryKeyConstraint("id", name="pk_shares"),
    )
    op.create_index("ix_shares_team_kind_key", "shares", ["team", "kind", "key"])
    op.create_index("ix_shares_with_team_kind_key", "shares", ["with_team", "kind", "key"])
    live = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_shares_live",
        "shares",
        ["team", "with_team", "kind", "key"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_table(
        "audit",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("team", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("detail", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_team_kind_key", "audit", ["team", "kind", "key"])


def downgrade() -> None:
    for table in ("audit", "shares", "tokens", "members", "teams"):
        op.drop_table(table)
