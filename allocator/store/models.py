"""Models that have been read once: what their weights' hash is, and their description."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.base.errors import NotFound
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.tables import models
from allocator.store.upserts import insert


class Models:
    """One row per (team, reference, weights). A reference may come to mean other weights; both rows stay."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, weights_sha256: str, reference: str, document: dict[str, Any]) -> None:
        """Remember that ``reference`` has these weights now; the description is replaced."""
        with self._database.write() as connection:
            statement = insert(connection, models).values(
                team=team, weights_sha256=weights_sha256, reference=reference, document=document
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["team", "reference", "weights_sha256"],
                    set_={"document": statement.excluded.document, "seen_at": utcnow()},
                )
            )

    def get(self, team: str, weights_sha256: str) -> dict[str, Any]:
        """The latest description of these weights. Raises NotFound."""
        return self._latest(team, models.c.weights_sha256 == weights_sha256, weights_sha256)

    def find_by_reference(self, team: str, reference: str) -> dict[str, Any]:
        """The description of what ``reference`` meant last. Raises NotFound."""
        return self._latest(team, models.c.reference == reference, reference)

    def _latest(self, team: str, condition: Any, name: str) -> dict[str, Any]:
        statement = select(models.c.document).where(models.c.team == team, condition)
        with self._database.read() as connection:
            document = connection.execute(
                statement.order_by(models.c.seen_at.desc(), models.c.id.desc()).limit(1)
            ).scalar()
        if document is None:
            raise NotFound(f"No model {name!r} has been read yet.")
        return dict(document)
