"""Latency tables: measured by `rankalloc latency` on the machine that matters, kept for budgets on time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from allocator.base.document import Timestamp
from allocator.plan.model.latency import LatencyTable
from api.web.addresses import address
from api.web.etags import IMMUTABLE, conditional_json
from api.web.services import BodyDep, CallerDep, ServicesDep, SubmitDep

router = APIRouter(prefix="/v1/latency-tables", tags=["latency tables"])

Digest = Annotated[str, Path(max_length=64)]
_JSON = {"application/json": {"schema": {"type": "object"}}}


class StoredLatencyTable(BaseModel):
    """The key of a latency table."""

    key: str = Field(description="For `latency_table` in jobs and plans.")
    stored: bool = Field(description="false: it was there already.")


class LatencyTableSummary(BaseModel):
    """A stored latency table."""

    digest: str
    device: str = Field(description="What it was measured on.")
    created_by: str
    created_at: Timestamp


class LatencyTablePage(BaseModel):
    """Latency tables, newest first."""

    items: list[LatencyTableSummary]
    next_cursor: str | None


@router.post(
    "",
    status_code=201,
    response_model=StoredLatencyTable,
    responses={200: {"model": StoredLatencyTable, "description": "It was there already"}},
    openapi_extra={"requestBody": {"required": True, "content": _JSON}},
)
def store_table(
    body: BodyDep, services: ServicesDep, caller: SubmitDep, response: Response
) -> dict[str, Any]:
    """Store a file that `rankalloc latency` wrote. Its key is its content's hash."""
    from allocator.plan.files.latency_file import import_table

    table = import_table(body)
    stored = services.store.latency_tables.put(caller.team, table, created_by=caller.name)
    if not stored:
        response.status_code = 200
    response.headers["Location"] = address(f"/v1/latency-tables/{table.digest}")
    return {"key": table.digest, "stored": stored}


@router.get("", response_model=LatencyTablePage)
def list_tables(
    services: ServicesDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Stored tables, newest first."""
    page = services.store.latency_tables.find(caller.team, limit=limit, cursor=cursor)
    return {"items": page.items, "next_cursor": page.next_cursor}


@router.get("/{table}", response_model=LatencyTable)
def get_table(table: Digest, services: ServicesDep, caller: CallerDep, request: Request) -> Response:
    """The whole table. It never changes."""
    document = services.store.latency_tables.document(caller.team, table)
    return conditional_json(request, document, tag=table, cache=IMMUTABLE)
