"""Aliases: names for plans that people move, under If-Match so that nobody overwrites what they have not seen."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from allocator.store.aliases import Alias
from api.etags import expected_version
from api.plan_schemas import AliasHistory, AliasOut, AliasPage, AliasTarget, RollBack
from api.services import CallerDep, ServicesDep, SubmitDep

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
    services: ServicesDep,
    caller: CallerDep,
    plan: Annotated[str | None, Query(max_length=128, description="Those that point at this plan.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Aliases, newest name first."""
    store = services.store
    digest = None if plan is None else store.plans.resolve(caller.team, plan)
    page = store.aliases.find(caller.team, digest=digest, limit=limit, cursor=cursor)
    return {"items": [vars(alias) for alias in page.items], "next_cursor": page.next_cursor}


@router.get("/{alias}", response_model=AliasOut)
def get_alias(alias: Name, services: ServicesDep, caller: CallerDep, response: Response) -> dict[str, Any]:
    """Where an alias points now; its ETag is what changes need as If-Match."""
    return _answer(response, services.store.aliases.get(caller.team, alias))


@router.get("/{alias}/history", response_model=AliasHistory)
def get_history(
    alias: Name, services: ServicesDep, caller: CallerDep, limit: Limit = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """Every change of an alias, newest first: who, when, from which plan to which."""
    page = services.store.aliases.history(caller.team, alias, limit=limit, cursor=cursor)
    return {"items": page.items, "next_cursor": page.next_cursor}


@router.put(
    "/{alias}", response_model=AliasOut, responses={201: {"model": AliasOut, "description": "It is new"}}
)
def set_alias(
    alias: Name,
    body: AliasTarget,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> dict[str, Any]:
    """Point an alias at a plan. 412 where it is not what you believe, 428 where it exists and you did not say."""
    store = services.store
    found, new = store.aliases.set(
        caller.team,
        alias,
        store.plans.resolve(caller.team, body.plan),
        by=caller.name,
        expected=expected_version(if_match, if_none_match),
    )
    response.status_code = 201 if new else 200
    return _answer(response, found)


@router.post("/{alias}/rollback", response_model=AliasOut)
def roll_back(
    alias: Name,
    services: ServicesDep,
    caller: SubmitDep,
    response: Response,
    body: RollBack | None = None,
    if_match: IfMatch = None,
) -> dict[str, Any]:
    """Point an alias at what it pointed at before, or in a named version; a change like any other, under If-Match."""
    found = services.store.aliases.roll_back(
        caller.team,
        alias,
        by=caller.name,
        expected=expected_version(if_match, None),
        version=None if body is None else body.version,
    )
    return _answer(response, found)


@router.delete("/{alias}", status_code=204)
def delete_alias(alias: Name, services: ServicesDep, caller: SubmitDep, if_match: IfMatch = None) -> None:
    """Forget where an alias points, under If-Match. Its history and all plans stay."""
    expected = expected_version(if_match, None)
    services.store.aliases.delete(caller.team, alias, by=caller.name, expected=expected)
