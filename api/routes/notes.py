"""Beside plans: labels, comments, lineage."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from api.routes.plans import Digest
from api.schemas.lineage import Lineage
from api.schemas.notes import CommentOut, CommentText, LabelOut, Notes
from api.web.services import SubmitTeamDep, TeamDep

router = APIRouter(prefix="/v1/plans", tags=["plans"])

Label = Annotated[str, Path(max_length=80, description="`[a-z0-9][a-z0-9._-]{0,62}`", examples=["candidate"])]


@router.get("/{digest}/notes", response_model=Notes)
def get_notes(
    digest: Digest,
    team: TeamDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """The plan's aliases, labels and comments."""
    return team.plans.notes(digest, limit=limit, cursor=cursor)


@router.post("/{digest}/comments", status_code=201, response_model=CommentOut)
def add_comment(digest: Digest, body: CommentText, team: SubmitTeamDep) -> dict[str, Any]:
    """Say something about a plan."""
    return team.plans.comment(digest, body.text)


@router.put(
    "/{digest}/labels/{label}",
    response_model=LabelOut,
    responses={201: {"model": LabelOut, "description": "It is new"}},
)
def add_label(digest: Digest, label: Label, team: SubmitTeamDep, response: Response) -> dict[str, Any]:
    """Put a label on a plan. Repeating it is harmless."""
    row, new = team.plans.add_new_label(digest, label)
    response.status_code = 201 if new else 200
    return row


@router.delete("/{digest}/labels/{label}", status_code=204)
def remove_label(digest: Digest, label: Label, team: SubmitTeamDep) -> None:
    """Take a label off a plan. Repeating it is harmless."""
    team.plans.remove_label(digest, label)


@router.get("/{digest}/lineage", response_model=Lineage)
def get_lineage(digest: Digest, team: TeamDep) -> dict[str, Any]:
    """The profile and the plan (`refined`, `transferred`) that it comes from, plans that come from it, the jobs that made and
    applied it, with the files they wrote and the losses they measured.
    """
    return team.plans.lineage(digest)
