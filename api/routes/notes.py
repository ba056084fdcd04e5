"""Beside plans: labels, comments, lineage."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from allocator.store.plan_views import lineage, notes
from api.plan_schemas import CommentOut, CommentText, LabelOut, Lineage, Notes
from api.routes.plans import PlanDigest
from api.services import CallerDep, ServicesDep, SubmitDep

router = APIRouter(prefix="/v1/plans", tags=["plans"])

Label = Annotated[str, Path(max_length=80, description="`[a-z0-9][a-z0-9._-]{0,62}`", examples=["candidate"])]


@router.get("/{digest}/notes", response_model=Notes)
def get_notes(
    digest: PlanDigest,
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """The plan's aliases, labels and comments."""
    return notes(services.store, caller.team, digest, limit=limit, cursor=cursor)


@router.post("/{digest}/comments", status_code=201, response_model=CommentOut)
def add_comment(
    digest: PlanDigest, body: CommentText, services: ServicesDep, caller: SubmitDep
) -> dict[str, Any]:
    """Say something about a plan."""
    return services.store.notes.add_comment(caller.team, digest, body.text, by=caller.name)


@router.put(
    "/{digest}/labels/{label}",
    response_model=LabelOut,
    responses={201: {"model": LabelOut, "description": "It is new"}},
)
def add_label(
    digest: PlanDigest, label: Label, services: ServicesDep, caller: SubmitDep, response: Response
) -> dict[str, Any]:
    """Put a label on a plan. Repeating it is harmless."""
    store = services.store
    if store.notes.add_label(caller.team, digest, label, by=caller.name):
        response.status_code = 201
    return next(each for each in store.notes.labels(caller.team, digest) if each["label"] == label)


@router.delete("/{digest}/labels/{label}", status_code=204)
def remove_label(digest: PlanDigest, label: Label, services: ServicesDep, caller: SubmitDep) -> None:
    """Take a label off a plan. Repeating it is harmless."""
    services.store.notes.remove_label(caller.team, digest, label, by=caller.name)


@router.get("/{digest}/lineage", response_model=Lineage)
def get_lineage(digest: PlanDigest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """From which profile and plan it comes, which jobs applied it, what they wrote and measured."""
    return lineage(services.store, caller.team, digest)
