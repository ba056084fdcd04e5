"""Notes that people write beside a plan: labels and comments. The plan itself never changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.base.errors import InvalidInput
from allocator.store import audit
from allocator.store.aliases import checked_name
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import plan_comments, plan_labels
from allocator.store.upserts import insert_or_ignore

LONGEST_COMMENT = 2000
MOST_LABELS = 100
"""The most labels of one plan."""


class Notes:
    """Rows of a team on a plan, whose digest is known to be the team's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def labels(self, team: str, digest: str) -> list[dict[str, Any]]:
        """{label, created_by, created_at} by name."""
        columns = (plan_labels.c.label, plan_labels.c.created_by, plan_labels.c.created_at)
        own = (plan_labels.c.team == team) & (plan_labels.c.digest == digest)
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(own).order_by(plan_labels.c.label))
            return [dict(row._mapping) for row in rows]

    def add_label(self, team: str, digest: str, label: str, *, by: str) -> bool:
        """False: it has it already. Raises InvalidInput for no name, or one label too many."""
        checked_name("label", label)
        with self._database.write() as connection:
            if len(self.labels(team, digest)) >= MOST_LABELS:
                raise InvalidInput.of("label", label, f"at most {MOST_LABELS} labels", "a plan has")
            new = insert_or_ignore(
                connection, plan_labels, team=team, digest=digest, label=label, created_by=by
            )
            if new:
                audit.add(connection, team, by, "labelled", "plan", digest, {"label": label})
            return new

    def remove_label(self, team: str, digest: str, label: str, *, by: str) -> bool:
        """False: it had none."""
        own = (plan_labels.c.team == team) & (plan_labels.c.digest == digest) & (plan_labels.c.label == label)
        with self._database.write() as connection:
            gone = bool(connection.execute(plan_labels.delete().where(own)).rowcount)
            if gone:
                audit.add(connection, team, by, "unlabelled", "plan", digest, {"label": label})
            return gone

    def comments(
        self, team: str, digest: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[dict[str, Any]]:
        """{id, text, created_by, created_at}, newest first."""
        columns = (
            plan_comments.c.id,
            plan_comments.c.text,
            plan_comments.c.created_by,
            plan_comments.c.created_at,
        )
        own = (plan_comments.c.team == team) & (plan_comments.c.digest == digest)
        with self._database.read() as connection:
            return fetch_page(
                connection,
                select(*columns).where(own),
                plan_comments.c.id,
                limit,
                cursor,
                lambda row: dict(row._mapping),
            )

    def add_comment(self, team: str, digest: str, text: str, *, by: str) -> dict[str, Any]:
        """The comment as `comments` lists it. Raises InvalidInput for an empty or too long text."""
        if not text.strip() or len(text) > LONGEST_COMMENT or "\0" in text:
            raise InvalidInput.of("text", text[:80], f"1 to {LONGEST_COMMENT} characters", "a comment has")
        with self._database.write() as connection:
            row = connection.execute(
                plan_comments.insert()
                .values(team=team, digest=digest, text=text, created_by=by)
                .returning(
                    plan_comments.c.id,
                    plan_comments.c.text,
                    plan_comments.c.created_by,
                    plan_comments.c.created_at,
                )
            ).one()
            audit.add(connection, team, by, "commented", "plan", digest, {"comment": row.id})
        return dict(row._mapping)
