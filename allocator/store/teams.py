"""Teams and their members."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from allocator.base.access import check_member_name, check_scope, check_team_name
from allocator.base.errors import NotFound
from allocator.store import audit
from allocator.store.clock import utcnow
from allocator.store.database import Database
from allocator.store.team_tables import members, teams, tokens
from allocator.store.upserts import insert, insert_or_ignore


class Team(NamedTuple):
    """One team."""

    name: str
    created_at: datetime


class Member(NamedTuple):
    """Somebody in a team."""

    name: str
    role: str
    """The widest scope that the tokens can have."""
    created_at: datetime


class Teams:
    """One row per team, and one per (team, member)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, *, actor: str) -> bool:
        """Make a team; False where it is there already. Raises InvalidInput for an impossible name."""
        check_team_name(name)
        with self._database.write() as connection:
            new = insert_or_ignore(connection, teams, name=name)
            if new:
                audit.add(connection, name, actor, "created", "team", name)
        return new

    def exists(self, name: str) -> bool:
        with self._database.read() as connection:
            return connection.execute(select(teams.c.name).where(teams.c.name == name)).scalar() is not None

    def all(self) -> list[Team]:
        """All teams by name: for operators."""
        with self._database.read() as connection:
            return [Team(*row) for row in connection.execute(select(teams).order_by(teams.c.name))]

    def get(self, name: str) -> Team:
        """Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(teams).where(teams.c.name == name)).one_or_none()
        if row is None:
            raise _no_team(name)
        return Team(*row)

    def lock(self, name: str) -> None:
        """Let nobody else pass here for this team until the enclosing transaction ends, so that what is counted stays so."""
        with self._database.write() as connection:
            connection.execute(select(teams.c.name).where(teams.c.name == name).with_for_update())

    def members(self, team: str) -> list[Member]:
        """The team's members by name. Raises NotFound for a team that does not exist."""
        self.get(team)
        with self._database.read() as connection:
            columns = (members.c.name, members.c.role, members.c.created_at)
            statement = select(*columns).where(members.c.team == team).order_by(members.c.name)
            return [Member(*row) for row in connection.execute(statement)]

    def role(self, team: str, name: str) -> str | None:
        """The role of a member; None for somebody who is none."""
        condition = (members.c.team == team) & (members.c.name == name)
        with self._database.read() as connection:
            return connection.execute(select(members.c.role).where(condition)).scalar()

    def put_member(self, team: str, name: str, role: str, *, actor: str) -> bool:
        """Add a member (True), or give one another role (False), which their tokens feel at once.

        Raises:
            InvalidInput: an impossible name or role.
            NotFound: no such team.
        """
        check_member_name(name)
        check_scope(role, "role")
        with self._database.write() as connection:
            self._require(connection, team)
            before = self.role(team, name)
            statement = insert(connection, members).values(team=team, name=name, role=role)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["team", "name"], set_={"role": role})
            )
            if before != role:
                action, detail = "created" if before is None else "changed", {"role": role, "was": before}
                audit.add(connection, team, actor, action, "member", name, detail)
        return before is None

    def remove_member(self, team: str, name: str, *, actor: str) -> None:
        """Remove a member and revoke their tokens. Raises NotFound."""
        with self._database.write() as connection:
            self._require(connection, team)
            gone = connection.execute(delete(members).where(members.c.team == team, members.c.name == name))
            if not gone.rowcount:
                raise NotFound(f"Team {team} has no member {name[:64]!r}.")
            live = (tokens.c.team == team) & (tokens.c.name == name) & tokens.c.revoked_at.is_(None)
            revoked = connection.execute(update(tokens).where(live).values(revoked_at=utcnow())).rowcount
            audit.add(connection, team, actor, "removed", "member", name, {"tokens_revoked": revoked})

    @staticmethod
    def _require(connection: Connection, team: str) -> None:
        if connection.execute(select(teams.c.name).where(teams.c.name == team)).scalar() is None:
            raise _no_team(team)


def _no_team(name: str) -> NotFound:
    return NotFound(f"There is no team {name[:64]!r}. Make it with `rankalloc teams create NAME`.")
