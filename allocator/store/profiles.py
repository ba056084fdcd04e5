"""Profiles: immutable documents over measured units, found by weights, calibration text or model."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from allocator.base.errors import Conflict, InvalidInput, NotFound
from allocator.methods.registry import method_of
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.store import audit
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import profiles
from allocator.store.shares import RowReference, listed, provenance, row_reference, summary_of, visible
from allocator.store.upserts import insert_or_ignore

SHORTEST_PREFIX = 6
_SHOWN_KEYS = 3
_SUMMARY = (
    profiles.c.id,
    profiles.c.team,
    profiles.c.key,
    profiles.c.model,
    profiles.c.weights_sha256,
    profiles.c.calibration_sha256,
    profiles.c.created_at,
)


class Profiles:
    """One row per (team, key). A team sees its own, and those shared with it, which say so in ``shared_by``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, team: str, profile: Profile) -> bool:
        """Store a profile; False where the same key is stored already."""
        with self._database.write() as connection:
            return insert_or_ignore(
                connection,
                profiles,
                team=team,
                key=profile.key,
                model=profile.model.reference,
                weights_sha256=profile.model.weights_sha256,
                calibration_sha256=profile.calibration.sha256,
                document=profile.document,
            )

    def take_in(self, team: str, profile: Profile, *, by: str) -> bool:
        """Store a profile from elsewhere under its own key; False where it is stored already.

        Raises:
            InvalidInput: it was made by a method that this version does not have.
        """
        method_of(profile.solver, "profile.solver")
        with self._database.write() as connection:
            new = self.put(team, profile)
            if new:
                origin = (
                    {} if profile.provenance is None else {"original_key": profile.provenance.original_key}
                )
                audit.add(connection, team, by, "imported", "profile", profile.key, origin)
        return new

    def get(self, team: str, key: str, *, row: RowReference | None = None) -> Profile:
        """The profile; a shared one with ``shared_by``. ``row``: of this row alone, which `locate` gave. Raises NotFound."""
        return Profile.stored(self.document(team, key, row=row))

    def document(self, team: str, key: str, *, row: RowReference | None = None) -> dict[str, Any]:
        """The document that `get` reads, as it is stored: to be handed on as it is. Raises NotFound."""
        sees = visible(team, "profile")
        document = self._document(team, key, sees if row is None else sees & (profiles.c.id == row.id))
        if document is None:
            raise _absent(key)
        return document

    def locate(self, team: str, key: str) -> RowReference:
        """The row that `get` would read, without reading its document. Raises NotFound."""
        statement = select(profiles.c.id, profiles.c.team)
        with self._database.read() as connection:
            own = statement.where(profiles.c.key == key, visible(team, "profile"))
            row = connection.execute(own).one_or_none()
        if row is None:
            raise _absent(key)
        return row_reference(team, row)

    def own(self, team: str, key: str) -> Profile | None:
        """A profile that the team itself has. What others share must not stand in for its units."""
        document = self._document(team, key, profiles.c.team == team)
        return None if document is None else Profile.stored(document)

    def of_plan(self, team: str, plan: Plan) -> Profile:
        """The profile that a plan was made from.

        Raises:
            Conflict: the team cannot see it: it is another team's, which shares the plan alone, or nothing any more.
        """
        document = self._document(team, plan.profile_key, visible(team, "profile"))
        if document is None:
            raise Conflict(
                f"Plan {plan.digest[:12]} was made from profile {plan.profile_key[:12]}, which is not shared with your"
                " team. Ask the team that has it to share the profile too (POST /v1/shares)."
            )
        return Profile.stored(document)

    def _document(self, team: str, key: str, condition: Any) -> dict[str, Any] | None:
        statement = select(profiles.c.document, profiles.c.team).where(profiles.c.key == key, condition)
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else {**row.document, **provenance(team, row.team)}

    def exists(self, team: str, key: str) -> bool:
        """Whether the team itself has this profile, so that its units are the team's own."""
        own = (profiles.c.team == team) & (profiles.c.key == key)
        with self._database.read() as connection:
            return connection.execute(select(profiles.c.id).where(own)).scalar() is not None

    def resolve(self, team: str, prefix: str) -> str:
        """The one key that begins like this; a whole key is its own beginning.

        Raises:
            InvalidInput: fewer than 6 characters, or several keys begin so.
            NotFound: no key begins so.
        """
        begins = visible(team, "profile") & profiles.c.key.startswith(prefix, autoescape=True)
        with self._database.read() as connection:
            statement = select(profiles.c.key).where(begins).order_by(profiles.c.key).limit(_SHOWN_KEYS)
            keys = list(connection.execute(statement).scalars())
        if prefix in keys:
            return prefix
        if len(prefix) < SHORTEST_PREFIX:
            allowed = f"a profile's key, or its first characters, at least {SHORTEST_PREFIX}"
            raise InvalidInput.of("key", prefix, allowed)
        if not keys:
            raise NotFound(f"There is no profile whose key begins with {prefix[:64]!r}.")
        if len(keys) > 1:
            allowed = "more characters: " + ", ".join(keys)
            raise InvalidInput.of("key", prefix, allowed, f"several begin with {prefix!r}; give")
        return str(keys[0])

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
        """Summaries (all columns but the document; ``shared_by`` a team or None), newest first."""
        statement = select(*_SUMMARY)
        for column, value in (
            (profiles.c.weights_sha256, weights_sha256),
            (profiles.c.calibration_sha256, calibration_sha256),
            (profiles.c.model, model),
        ):
            if value is not None:
                statement = statement.where(column == value)
        with self._database.read() as connection:
            statement = statement.where(listed(connection, team, "profile"))
            return fetch_page(
                connection, statement, profiles.c.id, limit, cursor, lambda row: summary_of(row, team)
            )


def _absent(key: str) -> NotFound:
    return NotFound(f"There is no profile {key!r}. `GET /v1/profiles` lists what there is.")
