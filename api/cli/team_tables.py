"""Teams, members and tokens as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from allocator.base.document import timestamp
from allocator.store.teams import Member, Team
from allocator.store.tokens import Token


def documents(rows: Sequence[Member] | Sequence[Token]) -> list[dict[str, Any]]:
    """Rows as JSON, times as ISO 8601."""
    return [
        {
            name: timestamp(value) if isinstance(value, datetime) else value
            for name, value in row._asdict().items()
        }
        for row in rows
    ]


def teams_table(teams: Sequence[tuple[Team, Sequence[Member]]]) -> Table:
    table = _titled_table("teams", "team", "members", "since")
    for team, inside in teams:
        names = ", ".join(member.name for member in inside) or "-"
        table.add_row(team.name, escape(names), _day(team.created_at))
    return table


def members_table(team: str, members: Sequence[Member]) -> Table:
    table = _titled_table(f"team {team}", "member", "role", "since")
    for member in members:
        table.add_row(escape(member.name), member.role, _day(member.created_at))
    return table


def tokens_table(team: str, tokens: Sequence[Token]) -> Table:
    """``ends``: when it ended or will; the server judges by its own clock, this table by this machine's."""
    columns = ("id", "member", "scope", "begins", "used", "ends")
    table = _titled_table(f"tokens of team {team}", *columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for token in tokens:
        used = "never" if token.last_used_at is None else _day(token.last_used_at)
        table.add_row(token.id, escape(token.name), token.scope, token.prefix, used, _end(token))
    return table


def shares_table(shares: Sequence[dict[str, Any]]) -> Table:
    """Shares as REST tells them."""
    table = Table()
    for name in ("of team", "with team", "key", "by", "since", "until"):
        table.add_column(name, overflow="fold")
    for share in shares:
        ends = "-" if share["revoked_at"] is None else share["revoked_at"][:10]
        row = (
            share["team"],
            share["with_team"],
            share["key"],
            share["created_by"],
            share["created_at"][:10],
            ends,
        )
        table.add_row(*map(escape, row))
    return table


def _end(token: Token) -> str:
    if token.revoked_at is not None:
        return f"revoked {_day(token.revoked_at)}"
    if token.expires_at is None:
        return "never"
    return ("expired " if token.expires_at < datetime.now(UTC) else "") + _day(token.expires_at)


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _titled_table(title: str, *columns: str, **style: Any) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", **style)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
