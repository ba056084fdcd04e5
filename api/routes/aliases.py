"""Aliases: names for plans that people move, under If-Match so that nobody overwrites what they have not seen."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from allocator.store.aliases import Alias
from api.schemas.aliases import AliasHistory, AliasOut, AliasPage, AliasTarget, RollBack
from api.web.etags import expected_version
from api.web.services import SubmitTeamDep, TeamDep

router = APIRouter(prefix="/v1/plan-aliases", tags=["plans"])

Name = Annotated[str, Path(max_length=80, description="`[a-z0-9][a-z0-9._-]{0,62}`", examples=["prod"])]
IfMatch = Annotated[
    str | None,
    Header(max_length=1000, description="The ETag of the version you change; `*`: whichever there is."),
]
IfNoneMatch = Annotated[
    str | None, Header(max_length=1000, description="`*`: make it; 412 where it is there already.")
]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200)]


def _answer(response: Response, alias: Alias) -> dict[str, Any]:
    response.headers["ETag"] = f'"{alias.version}"'
    return vars(alias)


@router.get("", response_model=AliasPage)
def list_aliases(
    team: TeamDep,
    plan: Annotated[str | None, Query(max_length=128, description="Those that point at this plan.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Aliases, newest name first."""
    page = team.plans.alias_page(plan=plan, limit=limit, cursor=cursor)
    return {"items": [vars(alias) for alias in page.items], "next_cursor": page.next_cursor}


@router.get("/{alias}", response_model=AliasOut)
def get_alias(alias: Name, team: TeamDep, response: Response) -> dict[str, Any]:
    """The plan that an alias points at; changes need its ETag as If-Match."""
    return _answer(response, team.plans.alias(alias))


@router.get("/{alias}/history", response_model=AliasHistory)
def get_history(alias: Name, team: TeamDep, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
    """Every change of an alias, newest first: who, when, from which plan to which."""
    return vars(team.plans.history_page(alias, limit=limit, cursor=cursor))


@router.put(
    "/{alias}", response_model=AliasOut, responses={201: {"model": AliasOut, "description": "It is new"}}
)
def set_alias(
    alias: Name,
    body: AliasTarget,
    team: SubmitTeamDep,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> dict[str, Any]:
    """Point an alias at a plan. 412 where it is not what you believe, 428 where it exists and you did not say."""
    expected = expected_version(if_match, if_none_match)
    moved, new = team.plans.put_alias(alias, body.plan, expected=expected)
    response.status_code = 201 if new else 200
    return _answer(response, moved)


@router.post("/{alias}/rollback", response_model=AliasOut)
def roll_back(
    alias: Name,
    team: SubmitTeamDep,
    response: Response,
    body: RollBack | None = None,
    if_match: IfMatch = None,
) -> dict[str, Any]:
    """Point an alias at what it pointed at before, or in a named version; a change like any other, under If-Match."""
    expected = expected_version(if_match, None)
    moved = team.plans.roll_back(alias, to=None if body is None else body.version, expected=expected)
    return _answer(response, moved)


@router.delete("/{alias}", status_code=204)
def delete_alias(alias: Name, team: SubmitTeamDep, if_match: IfMatch = None) -> None:
    """Forget where an alias points, under If-Match. Its history and all plans stay."""
    team.plans.delete_alias(alias, expected=expected_version(if_match, None))
