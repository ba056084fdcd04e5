"""Teams and their members. Admins of team ``default`` are the operators: they make teams and see all of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from allocator.base.access import ADMIN
from allocator.base.errors import Conflict, Forbidden, NotFound
from api.schemas.teams import MemberList, MemberOut, RoleIn, TeamIn, TeamList, TeamOut
from api.web.services import AdminDep, Caller, CallerDep, ServicesDep

router = APIRouter(prefix="/v1/teams", tags=["teams"])

TeamPath = Annotated[str, Path(max_length=64)]
MemberPath = Annotated[str, Path(max_length=64)]


@router.get("", response_model=TeamList)
def list_teams(services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Your own team; all of them for operators."""
    teams = services.store.teams
    visible = teams.all() if caller.is_operator else [teams.get(caller.team)]
    return {"items": [team._asdict() for team in visible]}


@router.post("", status_code=201, response_model=TeamOut)
def create_team(body: TeamIn, services: ServicesDep, caller: AdminDep) -> dict[str, Any]:
    """Make a team. For operators: admins of team `default`. Its first token comes from the server's command line."""
    if not caller.is_operator:
        raise Forbidden(
            "Teams are made by operators: tokens of team default with scope admin.", needed_scope=ADMIN
        )
    if not services.store.teams.create(body.name, actor=caller.actor(body.name)):
        raise Conflict(f"There is a team {body.name} already.")
    return services.store.teams.get(body.name)._asdict()


def _manageable(caller: Caller, team: str) -> str:
    """The team, if it is the caller's own or the caller is an operator. Raises NotFound."""
    if team != caller.team and not caller.is_operator:
        raise NotFound(f"There is no team {team[:64]!r} that you could see.")
    return team


@router.get("/{team}/members", response_model=MemberList)
def list_members(team: TeamPath, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Who is in the team, by name."""
    members = services.store.teams.members(_manageable(caller, team))
    return {"items": [member._asdict() for member in members]}


@router.put(
    "/{team}/members/{member}",
    response_model=MemberOut,
    responses={201: {"model": MemberOut, "description": "The member is new"}},
)
def put_member(
    team: TeamPath,
    member: MemberPath,
    body: RoleIn,
    services: ServicesDep,
    caller: AdminDep,
    response: Response,
) -> dict[str, Any]:
    """Add a member, or give one another role. A narrower one takes effect at once for their tokens."""
    teams = services.store.teams
    actor = caller.actor(_manageable(caller, team))
    if teams.put_member(team, member, body.role, actor=actor):
        response.status_code = 201
    return next(row._asdict() for row in teams.members(team) if row.name == member)


@router.delete("/{team}/members/{member}", status_code=204, response_class=Response)
def remove_member(team: TeamPath, member: MemberPath, services: ServicesDep, caller: AdminDep) -> None:
    """Remove a member and revoke all their tokens."""
    actor = caller.actor(_manageable(caller, team))
    services.store.teams.remove_member(team, member, actor=actor)
