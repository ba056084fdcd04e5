"""The audit trail of the caller's team."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.schemas.teams import AuditPage
from api.web.services import AdminDep, ServicesDep

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", response_model=AuditPage)
def list_audit(
    services: ServicesDep,
    caller: AdminDep,
    action: Annotated[str | None, Query(max_length=32)] = None,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    key: Annotated[str | None, Query(max_length=255)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Who made, shared, cancelled or changed what, newest first. For admins."""
    page = services.store.audit.find(
        caller.team, action=action, kind=kind, key=key, limit=limit, cursor=cursor
    )
    return {"items": [entry._asdict() for entry in page.items], "next_cursor": page.next_cursor}
