"""Tokens: made by admins, listed and revoked by admins and by whoever holds them; and whom a request speaks for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from allocator.base.access import ADMIN, lifetime_s
from allocator.store.tokens import Token
from api.schemas.teams import NewTokenOut, TokenIn, TokenPage, WhoAmI
from api.web.services import AdminDep, CallerDep, ServicesDep

router = APIRouter(prefix="/v1", tags=["tokens"])


def _document(token: Token) -> dict[str, Any]:
    return {name: value for name, value in token._asdict().items() if name != "team"}


@router.get("/whoami", response_model=WhoAmI)
def whoami(caller: CallerDep) -> dict[str, Any]:
    """Whom this request speaks for, and what it may do."""
    facts = {name: getattr(caller, name) for name in ("team", "name", "scope", "token_id")}
    return {**facts, "operator": caller.is_operator}


@router.get("/tokens", response_model=TokenPage)
def list_tokens(
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Your own tokens; all of the team's for admins. Newest first, those that have ended too."""
    name = None if caller.may(ADMIN) else caller.name
    page = services.store.tokens.find(caller.team, name=name, limit=limit, cursor=cursor)
    return {"items": [_document(token) for token in page.items], "next_cursor": page.next_cursor}


@router.post("/tokens", status_code=201, response_model=NewTokenOut)
def create_token(
    body: TokenIn, services: ServicesDep, caller: AdminDep, response: Response
) -> dict[str, Any]:
    """Make a token for a member of your team. The answer has its secret, which nobody can see again."""
    created = services.store.tokens.create(
        caller.team,
        body.name,
        scope=body.scope,
        lifetime_s=lifetime_s(body.expires),
        created_by=caller.name,
    )
    response.headers["Cache-Control"] = "no-store"
    return {**_document(created.token), "token": created.secret}


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
def revoke_token(
    token_id: Annotated[str, Path(max_length=64)], services: ServicesDep, caller: CallerDep
) -> None:
    """End a token at once: your own with any scope, another member's as an admin. Repeating it is harmless."""
    if services.store.tokens.owner(caller.team, token_id) != caller.name:
        caller.require(ADMIN)
    services.store.tokens.revoke(caller.team, token_id, actor=caller.name)
