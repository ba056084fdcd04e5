"""``rankalloc profiles`` and ``plans`` ``share``, ``unshare`` and ``shares``: what another team may see, and until when."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allocator.base.access import ShareKind
from allocator.base.errors import NotFound
from api.cli.connect import Server, source_of
from api.cli.console import answer
from api.cli.options import Json
from api.cli.plans import PlanName, plans
from api.cli.profiles import Key, profiles
from api.cli.sources import as_json, rows, whole_name

Team = Annotated[str, typer.Argument(help="The other team.", show_default=False)]
Undone = Annotated[bool, typer.Option("--undone", help="Also those that were undone.")]


@profiles.command("share")
def share_profile(key: Key, team: Team, server: Server = None, json_output: Json = False) -> None:
    """Let another team see a profile and plan from it. Repeating it is harmless."""
    _share("profile", key, team, server, json_output=json_output)


@plans.command("share")
def share_plan(plan: PlanName, team: Team, server: Server = None, json_output: Json = False) -> None:
    """Let another team see a plan, without its profile. Repeating it is harmless."""
    _share("plan", plan, team, server, json_output=json_output)


@profiles.command("unshare")
def unshare_profile(key: Key, team: Team, server: Server = None, json_output: Json = False) -> None:
    """Hide a profile from another team at once; plans that it has made stay with it."""
    _unshare("profile", key, team, server, json_output=json_output)


@plans.command("unshare")
def unshare_plan(plan: PlanName, team: Team, server: Server = None, json_output: Json = False) -> None:
    """Hide a plan from another team at once."""
    _unshare("plan", plan, team, server, json_output=json_output)


@profiles.command("shares")
def list_profile_shares(undone: Undone = False, server: Server = None, json_output: Json = False) -> None:
    """Profiles that your team shares, and that others share with it, newest first."""
    _list("profile", server, undone=undone, json_output=json_output)


@plans.command("shares")
def list_plan_shares(undone: Undone = False, server: Server = None, json_output: Json = False) -> None:
    """Plans that your team shares, and that others share with it, newest first."""
    _list("plan", server, undone=undone, json_output=json_output)


def _share(kind: ShareKind, name: str, team: str, server: str | None, *, json_output: bool) -> None:
    with source_of(server) as source:
        share = source.shares.add(kind, whole_name(source, kind, name), with_team=team)
        _tell(as_json(share), "is shared with", json_output=json_output)


def _unshare(kind: ShareKind, name: str, team: str, server: str | None, *, json_output: bool) -> None:
    with source_of(server) as source:
        key = whole_name(source, kind, name)
        shares = source.shares.find(direction="given", kind=kind, key=key)
        share = next((share for share in shares if share.with_team == team), None)
        if share is None:
            raise NotFound(
                f"{kind} {key[:12]} is not shared with team {team!r}; `rankalloc {kind}s shares` lists what is."
            )
        source.shares.undo(share.id)
        _tell(as_json(share), "is no longer shared with", json_output=json_output)


def _list(kind: ShareKind, server: str | None, *, undone: bool, json_output: bool) -> None:
    from api.cli.team_tables import shares_table

    with source_of(server) as source:
        documents = rows(source.shares.find(kind=kind, undone=undone))
    answer({"items": documents}, shares_table(documents), json_output=json_output)


def _tell(share: dict[str, Any], relation: str, *, json_output: bool) -> None:
    answer(
        share, f"{share['kind']} {share['key']} {relation} team {share['with_team']}", json_output=json_output
    )
