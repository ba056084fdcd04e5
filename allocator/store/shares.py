"""Shares: a profile or plan that one team lets another see, until it is undone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    and_,
    literal,
    or_,
    select,
    union,
    update,
)
from ulid import ULID

from allocator.base.access import Direction, ShareKind
from allocator.base.errors import InvalidInput, NotFound
from allocator.store import audit
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.plan_tables import plans, profiles
from allocator.store.team_tables import shares, teams
from allocator.store.upserts import insert_or_ignore

SHARE_KINDS: tuple[str, ...] = get_args(ShareKind)
_NAMES: dict[str, Column[Any]] = {"profile": profiles.c.key, "plan": plans.c.digest}


class Share(NamedTuple):
    """One share, live or undone."""

    id: str
    """ULID: sorts by time."""
    team: str
    """Who owns the object."""
    with_team: str
    """Who may see it."""
    kind: str
    key: str
    """The profile's key or the plan's digest."""
    created_by: str
    created_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None


_COLUMNS = [shares.c[name] for name in Share._fields]


def visible(team: str, kind: str, table: FromClause | None = None) -> ColumnElement[bool]:
    """Rows of profiles or plans (or of an alias of theirs) that ``team`` may see: its own, and those shared with it.

    One row per key: the team's own before any shared one, and of several teams' the one shared first.
    """
    name = _NAMES[kind]
    table = name.table if table is None else table
    key, own = table.c[name.name], name.table.alias("own")
    live = _live(team, kind)
    first_owner = select(shares.c.team).where(live, shares.c.key == key).order_by(shares.c.id).limit(1)
    has_own = select(own.c.id).where(own.c.team == team, own.c[name.name] == key).exists()
    shared = and_(
        key.in_(select(shares.c.key).where(live)),
        table.c.team == first_owner.correlate(table).scalar_subquery(),
        ~has_own,
    )
    # Says nothing new, but lets the database begin with these teams' rows instead of everybody's.
    return and_(table.c.team.in_(owners(team, kind)), or_(table.c.team == team, shared))


def owners(team: str, kind: str) -> CompoundSelect[Any]:
    """The teams of which ``team`` may see something of that kind: itself, and those that share one with it."""
    return union(select(literal(team)), select(shares.c.team).where(_live(team, kind)))


def _live(team: str, kind: str) -> ColumnElement[bool]:
    """Shares by which others let ``team`` see something of that kind now."""
    return and_(shares.c.kind == kind, shares.c.with_team == team, shares.c.revoked_at.is_(None))


def listed(connection: Connection, team: str, kind: str) -> ColumnElement[bool]:
    """The same for lists: rows are chosen by an index alone, so that only those of one page have to be read.

    A team with which nothing is shared has its own rows, which an index holds in the order of pages.
    """
    table = _NAMES[kind].table
    live = and_(shares.c.kind == kind, shares.c.with_team == team, shares.c.revoked_at.is_(None))
    if connection.execute(select(shares.c.id).where(live).limit(1)).scalar() is None:
        return table.c.team == team
    visible_rows = table.alias("seen")
    return table.c.id.in_(select(visible_rows.c.id).where(visible(team, kind, visible_rows)))


class RowReference(NamedTuple):
    """The row that a team sees under the name of a profile or plan. The row's document never changes."""

    id: int
    shared_by: str | None
    """The team that shares it; None: the team's own."""


def row_reference(team: str, row: Any) -> RowReference:
    """The reference of a row with ``id`` and ``team``."""
    return RowReference(row.id, None if row.team == team else row.team)


def provenance(team: str, owner: str) -> dict[str, str]:
    """The mark of an object that another team shares; nothing for one's own."""
    return {} if owner == team else {"shared_by": owner}


def summary_of(row: Any, team: str) -> dict[str, Any]:
    """A row of profiles or plans as lists show it to ``team``: ``shared_by`` in place of whose it is and its number."""
    columns = {name: value for name, value in row._mapping.items() if name not in ("id", "team")}
    return {**columns, "shared_by": None if row.team == team else row.team}


class Shares:
    """One row per act of sharing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, team: str, kind: str, key: str, *, with_team: str, by: str) -> tuple[Share, bool]:
        """Let ``with_team`` see an object of ``team``; and whether it could not see it yet.

        Raises:
            InvalidInput: an unknown kind or team, or the team itself.
            NotFound: the team has no such object of its own.
        """
        if kind not in SHARE_KINDS:
            raise InvalidInput.of("kind", kind[:64], " or ".join(SHARE_KINDS))
        if with_team == team:
            raise InvalidInput.of("with_team", with_team[:64], "another team than your own")
        name = _NAMES[kind]
        live = and_(
            *(shares.c.team == team, shares.c.with_team == with_team, shares.c.kind == kind),
            *(shares.c.key == key, shares.c.revoked_at.is_(None)),
        )
        with self._database.write() as connection:
            if connection.execute(select(teams.c.name).where(teams.c.name == with_team)).scalar() is None:
                raise InvalidInput.of("with_team", with_team[:64], "a team of this service")
            owned = select(name).where(name == key, name.table.c.team == team)
            if connection.execute(owned).first() is None:
                raise NotFound(f"Your team has no {kind} {key[:128]!r} of its own to share.")
            new = insert_or_ignore(
                connection,
                shares,
                id=str(ULID()),
                team=team,
                with_team=with_team,
                kind=kind,
                key=key,
                created_by=by,
            )
            if new:
                audit.add(connection, team, by, "shared", kind, key, {"with": with_team})
            return Share(*connection.execute(select(*_COLUMNS).where(live)).one()), new

    def undo(self, team: str, share_id: str, *, by: str) -> None:
        """Hide the object from the other team at once; repeating it is harmless.

        Raises:
            NotFound: no such share of an object of ``team``.
        """
        own = (shares.c.id == share_id) & (shares.c.team == team)
        with self._database.write() as connection:
            row = connection.execute(select(*_COLUMNS).where(own)).one_or_none()
            if row is None:
                raise NotFound(f"Your team has no share {share_id[:64]!r}. `GET /v1/shares` lists them.")
            statement = update(shares).where(own, shares.c.revoked_at.is_(None))
            if connection.execute(statement.values(revoked_at=utcnow(), revoked_by=by)).rowcount:
                audit.add(connection, team, by, "unshared", row.kind, row.key, {"with": row.with_team})

    def find(
        self,
        team: str,
        *,
        directions: Iterable[str] = get_args(Direction),
        kind: str | None = None,
        key: str | None = None,
        undone: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Share]:
        """Shares that the team gave and received, newest first; ``undone``: also those of the past."""
        sides = {"given": shares.c.team, "received": shares.c.with_team}
        statement = select(*_COLUMNS).where(or_(*(sides[direction] == team for direction in directions)))
        for column, value in ((shares.c.kind, kind), (shares.c.key, key)):
            if value is not None:
                statement = statement.where(column == value)
        if not undone:
            statement = statement.where(shares.c.revoked_at.is_(None))
        with self._database.read() as connection:
            return fetch_page(connection, statement, shares.c.id, limit, cursor, lambda row: Share(*row))
