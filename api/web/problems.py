"""Every error answer is ``application/problem+json`` (RFC 9457), with the request's id and without server
paths; a page where a browser asks for one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response

from allocator.base.errors import (
    FieldError,
    InvalidInput,
    RankallocError,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from api.web.render import error_page, to_login, wants_html

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = "5"
_MOST_CHARACTERS = 200
_MOST_FIELDS = 20
"""A body of a megabyte can be wrong in 100,000 places."""


def problem(
    scope: dict[str, Any],
    status: int,
    document: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> Response:
    """An error answer to the request of an ASGI ``scope``; ``document`` is `RankallocError.document`."""
    request_id = scope["state"]["request_id"]
    if wants_html(Headers(scope=scope)):
        return error_page(status, document, request_id, headers)
    slug = document["type"]
    body = {**document, "type": f"urn:rankalloc:problem:{slug}", "code": slug, "status": status}
    body |= {"instance": scope["path"], "request_id": request_id}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def simple_problem(scope: dict[str, Any], status: int, detail: str) -> Response:
    """An error answer for middleware, before there is a request object."""
    phrase = HTTPStatus(status).phrase
    document = {"type": _slug(phrase), "title": phrase, "detail": detail, "errors": []}
    return problem(scope, status, document)


def answer(scope: dict[str, Any], error: RankallocError) -> Response:
    """The answer to an error of ours, with the headers that its status asks for."""
    if isinstance(error, Unauthenticated) and scope["method"] == "GET" and wants_html(Headers(scope=scope)):
        return to_login(scope)
    headers = {}
    if isinstance(error, StoreUnavailable):
        headers["Retry-After"] = _RETRY_AFTER_S
    elif isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="rankalloc"'
    return problem(scope, error.status, error.document(), headers)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(RankallocError)
    def ours(request: Request, error: RankallocError) -> Response:
        return answer(dict(request.scope), error)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> Response:
        wrong = invalid_fields(error.errors())
        return problem(dict(request.scope), wrong.status, wrong.document())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        detail = error.detail if error.detail != phrase else _DETAILS.get(error.status_code, phrase)
        # What is unprocessable before any field is read is the body as a whole.
        fields = [vars(FieldError("body", "see detail", detail))] if error.status_code == 422 else []
        document = {"type": _slug(phrase), "title": phrase, "detail": detail, "errors": fields}
        headers = dict(error.headers) if error.headers else None
        return problem(dict(request.scope), error.status_code, document, headers)

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        log.error("request %s failed", request_id, exc_info=error)
        document = {
            "type": "internal",
            "title": "Internal error",
            "detail": f"The server's log has the details under request {request_id}.",
            "errors": [],
        }
        return problem(dict(request.scope), 500, document)


_DETAILS = {
    404: "There is nothing at this address. GET /openapi.json lists what there is.",
    405: "This address does not take this method.",
}


def _slug(phrase: str) -> str:
    return phrase.lower().replace(" ", "_").replace("-", "_")


def invalid_fields(errors: Sequence[Any]) -> InvalidInput:
    """An error of ours for what pydantic found wrong."""
    fields = [_field(error) for error in errors[:_MOST_FIELDS]]
    detail = f"{fields[0].field}: {fields[0].allowed}" if len(errors) == 1 else "Several fields are wrong."
    if len(errors) > len(fields):
        detail = f"{len(errors)} fields are wrong; the first {len(fields)} are listed."
    return InvalidInput(detail, fields=fields)


def _field(error: Any) -> FieldError:
    """One pydantic error as field, value found, and what is allowed."""
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    name = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place).lstrip(".") or "body"
    name = name[:_MOST_CHARACTERS]
    if error["type"] == "missing":
        return FieldError(name, "nothing", "this field is required")
    if error["type"] == "json_invalid":
        return FieldError("body", f"position {error['loc'][-1]}", f"JSON ({error['ctx']['error']})")
    if error["type"] == "extra_forbidden":
        return FieldError(name, repr(error["input"])[:_MOST_CHARACTERS], "no such field; check its spelling")
    return FieldError(name, repr(error["input"])[:_MOST_CHARACTERS], error["msg"])
