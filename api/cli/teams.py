"""``rankalloc teams`` and ``rankalloc tokens``: administration, on the server's own database."""

from __future__ import annotations

import getpass
import re
from typing import Annotated, Any

import typer

from allocator.base.access import DEFAULT_TEAM, MEMBER_PATTERN, SUBMIT, lifetime_s
from api.cli.app import app
from api.cli.console import answer, emit, stderr, stdout
from api.cli.local import local_store
from api.cli.options import Json

teams = typer.Typer(help="Teams and their members, on the server's database.", no_args_is_help=True)
members = typer.Typer(help="Who is in a team, and what they may do at most.", no_args_is_help=True)
tokens = typer.Typer(help="What members log in with, on the server's database.", no_args_is_help=True)
app.add_typer(teams, name="teams")
teams.add_typer(members, name="members")
app.add_typer(tokens, name="tokens")

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="The team's name.", show_default=False)]
MemberName = Annotated[str, typer.Argument(metavar="NAME", help="The member's name.", show_default=False)]
Role = Annotated[str, typer.Option(help="The widest scope of the member's tokens: read, submit or admin.")]
TeamOption = Annotated[str, typer.Option(help="The team's name.")]


def _login() -> str:
    """The name of whoever sits at the machine, as a member's name; containers may have none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return "operator"
    return name if re.fullmatch(MEMBER_PATTERN, name) else "operator"


def _actor() -> str:
    """The name of whoever sits at the machine, as the audit trail has it."""
    return f"cli:{_login()}"


@teams.command("create")
def create_team(name: TeamName, json_output: Json = False) -> None:
    """Make a team. Repeating it is harmless."""
    with local_store() as store:
        new = store.teams.create(name, actor=_actor())
    answer(
        {"name": name, "created": new},
        f"{'created' if new else 'was there already'}: team {name}",
        json_output=json_output,
    )


@teams.command("list")
def list_teams(json_output: Json = False) -> None:
    """All teams with their members."""
    from allocator.base.document import timestamp
    from api.cli.team_tables import teams_table

    with local_store() as store:
        people = [(team, store.teams.members(team.name)) for team in store.teams.all()]
    if json_output:
        rows = [
            {"name": team.name, "created_at": timestamp(team.created_at), "members": len(inside)}
            for team, inside in people
        ]
        emit({"items": rows})
    else:
        stdout.print(teams_table(people))


@members.command("list")
def list_members(team: TeamName, json_output: Json = False) -> None:
    """Who is in a team."""
    from api.cli.team_tables import documents, members_table

    with local_store() as store:
        people = store.teams.members(team)
    answer({"items": documents(people)}, members_table(team, people), json_output=json_output)


@members.command("add")
def add_member(team: TeamName, name: MemberName, role: Role = SUBMIT, json_output: Json = False) -> None:
    """Add a member, or give one another role; a narrower one takes effect at once for their tokens."""
    with local_store() as store:
        new = store.teams.put_member(team, name, role, actor=_actor())
    answer(
        {"team": team, "name": name, "role": role, "created": new},
        f"{name} is {'now' if new else 'still'} in team {team}, with role {role}",
        json_output=json_output,
    )


@members.command("remove")
def remove_member(team: TeamName, name: MemberName, json_output: Json = False) -> None:
    """Remove a member and revoke all their tokens."""
    with local_store() as store:
        store.teams.remove_member(team, name, actor=_actor())
    answer(
        {"team": team, "name": name, "removed": True},
        f"removed {name} from team {team}; all tokens of that name are revoked",
        json_output=json_output,
    )


@tokens.command("create")
def create_token(
    team: TeamOption = DEFAULT_TEAM,
    name: Annotated[
        str | None, typer.Option(help="The member. Default: your login name.", show_default=False)
    ] = None,
    scope: Annotated[
        str, typer.Option(help="read, submit or admin; each contains those before it.")
    ] = SUBMIT,
    expires: Annotated[str, typer.Option(help="A lifetime such as 90d, 12h or 30m; or never.")] = "90d",
    json_output: Json = False,
) -> None:
    """Make a token and show it, once. A team or member that is new is made on the way.

    The first token of a store closes it: from then on every request to the service needs one.
    """
    holder, lifetime, actor = name or _login(), lifetime_s(expires), _actor()
    with local_store() as store:
        first = not store.tokens.any()
        with store.transaction():
            if store.teams.create(team, actor=actor):
                stderr.print(f"team {team} is new", soft_wrap=True)
            if store.teams.role(team, holder) is None:
                store.teams.put_member(team, holder, scope, actor=actor)
                stderr.print(f"{holder} is new in team {team}, with role {scope}", soft_wrap=True)
            created = store.tokens.create(team, holder, scope=scope, lifetime_s=lifetime, created_by=actor)
    if json_output:
        emit({"token": created.secret, **_document(created.token)})
        return
    stdout.print(created.secret, soft_wrap=True, markup=False)
    stderr.print(
        f"token {created.token.id} of {holder} in team {team}, scope {scope}, expires: {expires}.",
        soft_wrap=True,
    )
    stderr.print("It is not shown again. Programs send it as: Authorization: Bearer ra_...", soft_wrap=True)
    if first:
        stderr.print(
            "It is the store's first: every request to /v1 needs a token from now on.", soft_wrap=True
        )


@tokens.command("list")
def list_tokens(
    team: TeamOption = DEFAULT_TEAM,
    name: Annotated[str | None, typer.Option(help="This member's alone.", show_default=False)] = None,
    json_output: Json = False,
) -> None:
    """A team's tokens, newest first, without their secrets."""
    from allocator.store.paging import MAX_LIMIT, all_rows
    from api.cli.team_tables import tokens_table

    with local_store() as store:
        store.teams.get(team)
        issued = list(
            all_rows(lambda cursor: store.tokens.find(team, name=name, limit=MAX_LIMIT, cursor=cursor))
        )
    answer(
        {"items": [_document(token) for token in issued]}, tokens_table(team, issued), json_output=json_output
    )


@tokens.command("revoke")
def revoke_token(
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="As listed; not the secret.", show_default=False)
    ],
    team: TeamOption = DEFAULT_TEAM,
    json_output: Json = False,
) -> None:
    """End a token at once. Repeating it is harmless."""
    with local_store() as store:
        store.tokens.revoke(team, token_id, actor=_actor())
    answer({"id": token_id, "revoked": True}, f"revoked: token {token_id}", json_output=json_output)


def _document(token: Any) -> dict[str, Any]:
    from api.cli.team_tables import documents

    (document,) = documents([token])
    return document
