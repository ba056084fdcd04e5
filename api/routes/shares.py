"""Shares: let another team see a profile or a plan, and take that back."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Path, Query, Response

from allocator.base.access import Direction, ShareKind
from api.services import CallerDep, ServicesDep, SubmitDep
from api.team_schemas import ShareIn, ShareOut, SharePage

router = APIRouter(prefix="/v1/shares", tags=["shares"])


@router.get("", response_model=SharePage)
def list_shares(
    services: ServicesDep,
    caller: CallerDep,
    direction: Annotated[Direction | None, Query(description="Default: both.")] = None,
    kind: ShareKind | None = None,
    key: Annotated[str | None, Query(max_length=128)] = None,
    undone: Annotated[bool, Query(description="Also those that were undone.")] = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """What your team shares with others and others share with yours, newest first."""
    page = services.store.shares.find(
        caller.team,
        directions=get_args(Direction) if direction is None else (direction,),
        kind=kind,
        key=key,
        undone=undone,
        limit=limit,
        cursor=cursor,
    )
    return {"items": [share._asdict() for share in page.items], "next_cursor": page.next_cursor}


@router.post(
    "",
    status_code=201,
    response_model=ShareOut,
    responses={200: {"model": ShareOut, "description": "It was shared already"}},
)
def create_share(
    body: ShareIn, services: ServicesDep, caller: SubmitDep, response: Response
) -> dict[str, Any]:
    """Let another team see a profile or plan of yours, and plan from the profile. A plan is shared without its profile:
    its explanation needs that shared too.
    """
    share, new = services.store.shares.add(
        caller.team, body.kind, body.key, with_team=body.with_team, by=caller.name
    )
    if not new:
        response.status_code = 200
    return share._asdict()


@router.delete("/{share_id}", status_code=204, response_class=Response)
def undo_share(
    share_id: Annotated[str, Path(max_length=64)], services: ServicesDep, caller: SubmitDep
) -> None:
    """Hide it from the other team at once. Plans that it has made stay with it. Repeating it is harmless."""
    services.store.shares.undo(caller.team, share_id, by=caller.name)
