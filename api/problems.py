"""Every error answer is ``application/problem+json`` (RFC 9457), with the request's id and without server
paths.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from allocator.errors import FieldError, InvalidInput, RankallocError, StoreUnavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "5"
_SHOWN = 200
_MOST_FIELDS = 20
"""A body of a megabyte can be wrong in 100,000 places."""


def problem(
    request_path: str,
    request_id: str,
    status: int,
    document: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error answer; ``document`` is `RankallocError.document`."""
    slug = document["type"]
    body = {**document, "type": f"urn:rankalloc:problem:{slug}", "code": slug, "status": status}
    body |= {"instance": request_path, "request_id": request_id}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def simple_problem(scope: dict[str, Any], status: int, detail: str) -> JSONResponse:
    """An error answer for middleware, before there is a request object."""
    phrase = HTTPStatus(status).phrase
    document = {"type": _slug(phrase), "title": phrase, "detail": detail, "errors": []}
    return problem(scope["path"], scope["state"]["request_id"], status, document)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(RankallocError)
    def ours(request: Request, error: RankallocError) -> JSONResponse:
        headers = {"Retry-After": _RETRY_AFTER_S} if isinstance(error, StoreUnavailable) else None
        return problem(request.url.path, request.state.request_id, error.status, error.document(), headers)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        fields = [_field(each) for each in found[:_MOST_FIELDS]]
        detail = f"{fields[0].field}: {fields[0].allowed}" if len(found) == 1 else "Several fields are wrong."
        if len(found) > len(fields):
            detail = f"{len(found)} fields are wrong; the first {len(fields)} are listed."
        wrong = InvalidInput(detail, fields=fields)
        return problem(request.url.path, request.state.request_id, wrong.status, wrong.document())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        detail = error.detail if error.detail != phrase else _DETAILS.get(error.status_code, phrase)
        document = {"type": _slug(phrase), "title": phrase, "detail": detail, "errors": []}
        headers = dict(error.headers) if error.headers else None
        return problem(request.url.path, request.state.request_id, error.status_code, document, headers)

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> JSONResponse:
        request_id = request.state.request_id
        log.error("request %s failed", request_id, exc_info=error)
        document = {
            "type": "internal",
            "title": "Internal error",
            "detail": f"The server's log has the details under request {request_id}.",
            "errors": [],
        }
        return problem(request.url.path, request_id, 500, document)


_DETAILS = {
    404: "There is nothing at this address. GET /openapi.json lists what there is.",
    405: "This address does not take this method.",
}


def _slug(phrase: str) -> str:
    return phrase.lower().replace(" ", "_").replace("-", "_")


def _field(found: Any) -> FieldError:
    """One pydantic error as field, value found, and what is allowed."""
    place = [str(part) for part in found["loc"] if part not in ("body", "query", "path")]
    name = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place).lstrip(".") or "body"
    name = name[:_SHOWN]
    if found["type"] == "missing":
        return FieldError(name, "nothing", "this field is required")
    if found["type"] == "json_invalid":
        return FieldError("body", f"position {found['loc'][-1]}", f"JSON ({found['ctx']['error']})")
    if found["type"] == "extra_forbidden":
        return FieldError(name, repr(found["input"])[:_SHOWN], "no such field; check its spelling")
    return FieldError(name, repr(found["input"])[:_SHOWN], found["msg"])
