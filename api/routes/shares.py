"""Shares: let another team see a profile or a plan, and take that back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from allocator.base.access import Direction, ShareKind
from api.schemas.teams import ShareIn, ShareOut, SharePage
from api.web.services import SubmitTeamDep, TeamDep

router = APIRouter(prefix="/v1/shares", tags=["shares"])


@router.get("", response_model=SharePage)
def list_shares(
    team: TeamDep,
    direction: Annotated[Direction | None, Query(description="Default: both.")] = None,
    kind: ShareKind | None = None,
    key: Annotated[str | None, Query(max_length=128)] = None,
    undone: Annotated[bool, Query(description="Also those that were undone.")] = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Shares of your team with others, and of others with yours, newest first."""
    page = team.shares.page(
        direction=direction,
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
def create_share(body: ShareIn, team: SubmitTeamDep, response: Response) -> dict[str, Any]:
    """Let another team see a profile or plan of yours, and plan from the profile. A plan is shared without its profile:
    its explanation needs that shared too.
    """
    share, new = team.shares.add_new(body.kind, body.key, with_team=body.with_team)
    if not new:
        response.status_code = 200
    return share._asdict()


@router.delete("/{share_id}", status_code=204, response_class=Response)
def undo_share(share_id: Annotated[str, Path(max_length=64)], team: SubmitTeamDep) -> None:
    """Hide it from the other team at once. Plans that it has made stay with it. Repeating it is harmless."""
    team.shares.undo(share_id)
