"""Tokens: random secrets of which only the hash is stored. What they allow ends with their time, their revocation, or
their member's role, whichever comes first; the database's clock decides.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from ulid import ULID

from allocator.base.access import allows, check_scope, lesser
from allocator.base.errors import InvalidInput, NotFound
from allocator.store import audit
from allocator.store.clock import utc_in, utcnow
from allocator.store.database import Database
from allocator.store.paging import Page, fetch_page
from allocator.store.team_tables import members, tokens
from allocator.store.teams import Teams

START = "ra_"
_RANDOM_BYTES = 32
_SHOWN = len(START) + 6
_NOTED_EVERY_S = 60.0


class Token(NamedTuple):
    """One token, without its secret."""

    id: str
    """ULID: sorts by time of creation."""
    team: str
    name: str
    """The member who holds it."""
    scope: str
    prefix: str
    """The secret's first characters, to tell tokens apart in lists."""
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""


@dataclass(frozen=True)
class NewToken:
    """A token at its creation, the only time its secret is known."""

    token: Token
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Holder:
    """Whom a live token speaks for."""

    token_id: str
    team: str
    name: str
    scope: str
    """The narrower of the token's scope and the member's role."""


_COLUMNS = [tokens.c[name] for name in Token._fields]
_HELD = tokens.join(members, (members.c.team == tokens.c.team) & (members.c.name == tokens.c.name))
"""Tokens whose holder is still in the team."""


class Tokens:
    """One row per token. Rows are never deleted: a store that has had a token never serves strangers again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._teams = Teams(database)

    def any(self) -> bool:
        """Whether a token was ever made."""
        with self._database.read() as connection:
            return connection.execute(select(tokens.c.id).limit(1)).scalar() is not None

    def living(self) -> int:
        """The number of tokens of all teams that open something now."""
        statement = select(func.count()).select_from(_HELD).where(_alive())
        with self._database.read() as connection:
            return int(connection.execute(statement).scalar_one())

    def create(
        self, team: str, name: str, *, scope: str, lifetime_s: float | None, created_by: str
    ) -> NewToken:
        """Make a token for a member; ``lifetime_s`` None: until it is revoked.

        Raises:
            InvalidInput: nobody of that name is in the team, or the role is narrower than ``scope``.
        """
        check_scope(scope)
        secret = START + secrets.token_urlsafe(_RANDOM_BYTES)
        token_id = str(ULID())
        with self._database.write() as connection:
            role = self._teams.role(team, name)
            if role is None:
                raise _refused("name", name, f"a member of team {team}; add them first", team, name, scope)
            if not allows(role, scope):
                raise _refused(
                    "scope", scope, f"at most {role}, the role of {name}; raise it first", team, name, scope
                )
            connection.execute(
                tokens.insert().values(
                    id=token_id,
                    team=team,
                    name=name,
                    scope=scope,
                    sha256=_hash(secret),
                    prefix=secret[:_SHOWN],
                    created_by=created_by,
                    expires_at=None if lifetime_s is None else utc_in(lifetime_s),
                )
            )
            audit.add(
                connection, team, created_by, "created", "token", token_id, {"for": name, "scope": scope}
            )
            row = connection.execute(select(*_COLUMNS).where(tokens.c.id == token_id)).one()
        return NewToken(Token(*row), secret)

    def holder(self, secret: str) -> Holder | None:
        """Whom this secret speaks for; None where it is unknown, revoked, expired, or of somebody who has left.

        Found by the hash of 256 random bits, so that neither guessing nor the time of the comparison helps anybody.
        """
        statement = (
            select(
                *(tokens.c.id, tokens.c.team, tokens.c.name, tokens.c.scope, members.c.role),
                _unnoted().label("unnoted"),
            )
            .select_from(_HELD)
            .where(tokens.c.sha256 == _hash(secret), _alive())
        )
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        if row.unnoted:
            with self._database.write() as connection:
                connection.execute(
                    update(tokens).where(tokens.c.id == row.id, _unnoted()).values(last_used_at=utcnow())
                )
        return Holder(row.id, row.team, row.name, lesser(row.scope, row.role))

    def owner(self, team: str, token_id: str) -> str | None:
        """The member who holds a token; None where the team has no such token."""
        condition = (tokens.c.id == token_id) & (tokens.c.team == team)
        with self._database.read() as connection:
            return connection.execute(select(tokens.c.name).where(condition)).scalar()

    def find(
        self, team: str, *, name: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Token]:
        """A team's tokens, or one member's, newest first."""
        statement = select(*_COLUMNS).where(tokens.c.team == team)
        if name is not None:
            statement = statement.where(tokens.c.name == name)
        with self._database.read() as connection:
            return fetch_page(connection, statement, tokens.c.id, limit, cursor, lambda row: Token(*row))

    def revoke(self, team: str, token_id: str, *, actor: str) -> None:
        """End a token at once; repeating it is harmless. Raises NotFound."""
        with self._database.write() as connection:
            name = self.owner(team, token_id)
            if name is None:
                raise NotFound(f"There is no token {token_id[:64]!r}. `GET /v1/tokens` lists what there is.")
            live = (tokens.c.id == token_id) & tokens.c.revoked_at.is_(None)
            if connection.execute(update(tokens).where(live).values(revoked_at=utcnow())).rowcount:
                audit.add(connection, team, actor, "revoked", "token", token_id, {"for": name})


def _alive() -> ColumnElement[bool]:
    return and_(
        tokens.c.revoked_at.is_(None), or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > utcnow())
    )


def _unnoted() -> ColumnElement[bool]:
    """Whether the last use was noted so long ago that it should be again: reads are to stay reads."""
    return or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < utc_in(-_NOTED_EVERY_S))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refused(field: str, value: str, allowed: str, team: str, name: str, scope: str) -> InvalidInput:
    command = f"`rankalloc teams members add {team} {name} --role {scope}`"
    way_out = f"{command} or PUT /v1/teams/{team}/members/{name}"
    return InvalidInput.of(field, value[:64], f"{allowed}: {way_out}")
