"""Profiles: immutable documents over measured units, found by weights, calibration text or model."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.errors import FieldError, InvalidInput, NotFound
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.tables import profiles
from allocator.store.upserts import insert_or_ignore

SHORTEST_PREFIX = 6
_SHOWN_KEYS = 3
_SUMMARY = (
    profiles.c.id,
    profiles.c.key,
    profiles.c.model,
    profiles.c.weights_sha256,
    profiles.c.calibration_sha256,
    profiles.c.created_at,
)


def _summary(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "id"}


class Profiles:
    """One row per (team, key)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, key: str, document: dict[str, Any]) -> bool:
        """Store a profile; False where the same key is stored already.

        ``document`` carries ``model.reference``, ``model.weights_sha256`` and ``calibration_sha256`` (or
        ``calibration.sha256``).
        """
        calibration = document.get("calibration_sha256") or document["calibration"]["sha256"]
        with self._database.write() as connection:
            return insert_or_ignore(
                connection,
                profiles,
                team=team,
                key=key,
                model=document["model"]["reference"],
                weights_sha256=document["model"]["weights_sha256"],
                calibration_sha256=calibration,
                document=document,
            )

    def get(self, team: str, key: str) -> dict[str, Any]:
        """The document. Raises NotFound."""
        wanted = (profiles.c.team == team) & (profiles.c.key == key)
        with self._database.read() as connection:
            document = connection.execute(select(profiles.c.document).where(wanted)).scalar()
        if document is None:
            raise NotFound(f"There is no profile {key!r}. `GET /v1/profiles` lists what there is.")
        return dict(document)

    def exists(self, team: str, key: str) -> bool:
        """Whether the team has this profile."""
        wanted = (profiles.c.team == team) & (profiles.c.key == key)
        with self._database.read() as connection:
            return connection.execute(select(profiles.c.id).where(wanted)).scalar() is not None

    def resolve(self, team: str, prefix: str) -> str:
        """The one key that begins like this; a whole key is its own beginning.

        Raises:
            InvalidInput: fewer than 6 characters, or several keys begin so.
            NotFound: no key begins so.
        """
        wanted = (profiles.c.team == team) & profiles.c.key.startswith(prefix, autoescape=True)
        with self._database.read() as connection:
            statement = select(profiles.c.key).where(wanted).order_by(profiles.c.key).limit(_SHOWN_KEYS)
            found = list(connection.execute(statement).scalars())
        if prefix in found:
            return prefix
        if len(prefix) < SHORTEST_PREFIX:
            allowed = f"a profile's key, or its first characters, at least {SHORTEST_PREFIX}"
            raise InvalidInput(
                f"key: {prefix!r} is not {allowed}", fields=[FieldError("key", prefix, allowed)]
            )
        if not found:
            raise NotFound(f"There is no profile whose key begins with {prefix[:64]!r}.")
        if len(found) > 1:
            allowed = "more characters: " + ", ".join(found)
            raise InvalidInput(
                f"key: several begin with {prefix!r}", fields=[FieldError("key", prefix, allowed)]
            )
        return str(found[0])

    def find(
        self,
        team: str,
        *,
        weights_sha256: str | None = None,
        calibration_sha256: str | None = None,
        model: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """Summaries (all columns but the document), newest first."""
        statement = select(*_SUMMARY).where(profiles.c.team == team)
        for column, value in (
            (profiles.c.weights_sha256, weights_sha256),
            (profiles.c.calibration_sha256, calibration_sha256),
            (profiles.c.model, model),
        ):
            if value is not None:
                statement = statement.where(column == value)
        with self._database.read() as connection:
            return fetch_page(connection, statement, profiles.c.id, limit, cursor, _summary)
