"""Aliases: names that people move from plan to plan, each move a new version in a history that stays.

A change says which version it believes to be changing; one that believes another changes nothing. Versions of a name are
never used twice, not even after a deletion, so that an old belief cannot come true again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, select, update

from allocator.base.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
)
from allocator.store import audit
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import plan_alias_changes, plan_aliases
from allocator.store.upserts import insert_or_ignore

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME = re.compile(NAME_PATTERN)
_CURRENT = "the alias' ETag, as GET /v1/plan-aliases/{name} answers it now"

Expected = frozenset[int] | Literal["exists", "absent"] | None
"""A caller's belief of an alias: one of these versions, any, none at all; None: said nothing."""


@dataclass(frozen=True)
class Alias:
    """An alias: where a name points now."""

    name: str
    digest: str
    version: int
    """Grows with every change; the ETag."""
    changed_by: str
    changed_at: datetime


_ALIAS = [plan_aliases.c[name] for name in Alias.__dataclass_fields__]
_CHANGE = [
    plan_alias_changes.c[name]
    for name in ("id", "version", "action", "from_digest", "to_digest", "changed_by", "changed_at")
]


def checked_name(field: str, name: str) -> str:
    """An alias' or label's name. Raises InvalidInput for another text."""
    if _NAME.fullmatch(name) is None:
        allowed = "1 to 63 of a-z, 0-9, '.', '_', '-', the first a letter or digit"
        raise InvalidInput.of(field, name[:80], allowed)
    return name


class Aliases:
    """One row per (team, name), and one per change of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, team: str, name: str) -> Alias:
        """The alias of this name. Raises NotFound."""
        with self._database.read() as connection:
            alias = _row(connection, team, name)
        if alias is None:
            raise _missing(name)
        return alias

    def find(
        self, team: str, *, digest: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Alias]:
        """Aliases (of one plan), newest name first."""
        statement = select(plan_aliases.c.id, *_ALIAS).where(plan_aliases.c.team == team)
        if digest is not None:
            statement = statement.where(plan_aliases.c.digest == digest)
        with self._database.read() as connection:
            return fetch_page(
                connection, statement, plan_aliases.c.id, limit, cursor, lambda row: Alias(*row[1:])
            )

    def history(
        self, team: str, name: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[dict[str, Any]]:
        """Every change, newest first: {version, action, from_digest, to_digest, changed_by, changed_at}.

        Raises:
            NotFound: there never was such an alias.
        """
        own = (plan_alias_changes.c.team == team) & (plan_alias_changes.c.name == name)
        with self._database.read() as connection:
            page = fetch_page(
                connection,
                select(*_CHANGE).where(own),
                plan_alias_changes.c.id,
                limit,
                cursor,
                lambda row: {key: value for key, value in row._mapping.items() if key != "id"},
            )
        if not page.items and cursor is None:
            raise _missing(name)
        return page

    def set(self, team: str, name: str, digest: str, *, by: str, expected: Expected) -> tuple[Alias, bool]:
        """Point a name at a plan, whose digest is known to be the team's. The alias, and whether it is new.

        Raises:
            InvalidInput: no name for an alias.
            PreconditionFailed: it is not (or no longer) as expected.
            PreconditionRequired: it exists and nothing was expected.
        """
        checked_name("name", name)
        with self._database.write() as connection:
            current = _row(connection, team, name, lock=True)
            _check(name, current, expected)
            if current is not None and current.digest == digest:
                return current, False
            if current is None:
                return self._create(connection, team, name, digest, by), True
            return self._move(connection, team, current, digest, by, "set"), False

    def roll_back(
        self, team: str, name: str, *, by: str, expected: Expected, version: int | None = None
    ) -> Alias:
        """Point a name at what it pointed at before its latest change, or in ``version``. A change like any other.

        Raises:
            NotFound: no such alias.
            PreconditionFailed, PreconditionRequired: as `set`.
            Conflict: there was nothing before, or nothing in that version.
        """
        with self._database.write() as connection:
            current = _row(connection, team, name, lock=True)
            if current is None:
                raise _missing(name)
            _check(name, current, expected)
            column, change_version = (
                (plan_alias_changes.c.from_digest, current.version)
                if version is None
                else (plan_alias_changes.c.to_digest, version)
            )
            digest = connection.execute(
                select(column).where(
                    plan_alias_changes.c.team == team,
                    plan_alias_changes.c.name == name,
                    plan_alias_changes.c.version == change_version,
                )
            ).scalar()
            if digest is None:
                problem = (
                    "has no former plan" if version is None else f"pointed at no plan in version {version}"
                )
                raise Conflict(
                    f"Alias {name!r} {problem}; GET /v1/plan-aliases/{name}/history lists its versions."
                )
            if digest == current.digest:
                return current
            return self._move(connection, team, current, digest, by, "rollback")

    def delete(self, team: str, name: str, *, by: str, expected: Expected) -> None:
        """Forget where a name points; its history and all plans stay. Raises as `roll_back`."""
        with self._database.write() as connection:
            current = _row(connection, team, name, lock=True)
            if current is None:
                raise _missing(name)
            _check(name, current, expected)
            connection.execute(plan_aliases.delete().where(_is(team, name)))
            self._note(connection, team, name, current.version + 1, "delete", current.digest, None, by)

    def _create(self, connection: Connection, team: str, name: str, digest: str, by: str) -> Alias:
        used = select(func.max(plan_alias_changes.c.version)).where(
            plan_alias_changes.c.team == team, plan_alias_changes.c.name == name
        )
        version = (connection.execute(used).scalar() or 0) + 1
        row = {"name": name, "digest": digest, "version": version, "changed_by": by}
        if not insert_or_ignore(connection, plan_aliases, team=team, **row):
            raise PreconditionFailed(f"Alias {name!r} has just been made by somebody else; look at it first.")
        self._note(connection, team, name, version, "set", None, digest, by)
        created = _row(connection, team, name)
        assert created is not None
        return created

    def _move(
        self, connection: Connection, team: str, current: Alias, digest: str, by: str, action: str
    ) -> Alias:
        version = current.version + 1
        moved = update(plan_aliases).where(_is(team, current.name))
        row = connection.execute(
            moved.values(digest=digest, version=version, changed_by=by, changed_at=utcnow()).returning(
                *_ALIAS
            )
        ).one()
        self._note(connection, team, current.name, version, action, current.digest, digest, by)
        return Alias(*row)

    @staticmethod
    def _note(
        connection: Connection,
        team: str,
        name: str,
        version: int,
        action: str,
        source: str | None,
        target: str | None,
        by: str,
    ) -> None:
        row = {"version": version, "action": action, "from_digest": source, "to_digest": target}
        connection.execute(plan_alias_changes.insert().values(team=team, name=name, changed_by=by, **row))
        act = "unaliased" if target is None else "aliased"
        audit.add(
            connection, team, by, act, "alias", name, {"from": source, "to": target, "version": version}
        )


def _is(team: str, name: str) -> Any:
    return (plan_aliases.c.team == team) & (plan_aliases.c.name == name)


def _row(connection: Connection, team: str, name: str, *, lock: bool = False) -> Alias | None:
    statement = select(*_ALIAS).where(_is(team, name))
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else Alias(*row)


def _missing(name: str) -> NotFound:
    return NotFound(f"There is no alias {name[:80]!r}. `GET /v1/plan-aliases` lists what there is.")


def _check(name: str, current: Alias | None, expected: Expected) -> None:
    if current is None:
        if expected in (None, "absent"):
            return
        raise PreconditionFailed(f"There is no alias {name!r} any more, or not yet.")
    if expected is None:
        raise PreconditionRequired(
            f'Alias {name!r} exists; say which version you change: If-Match: "{current.version}".',
            fields=[FieldError("If-Match", "nothing", _CURRENT)],
        )
    if expected == "absent":
        raise PreconditionFailed(f"Alias {name!r} exists already; change it under If-Match.")
    if expected != "exists" and current.version not in expected:
        versions = ", ".join(str(version) for version in sorted(expected)) or "no version of it"
        raise PreconditionFailed(
            f"Alias {name!r} was changed meanwhile: it is at version {current.version}, by {current.changed_by},"
            f" and you know {versions}. Look at it again.",
            fields=[FieldError("If-Match", versions, _CURRENT)],
        )
