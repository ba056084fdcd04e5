"""Answers that need not be sent again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

IMMUTABLE = "private, max-age=31536000, immutable"


def conditional_json(
    request: Request, document: dict[str, Any], *, tag: str | None = None, cache: str = "no-cache"
) -> Response:
    """``document`` with its ETag, or 304 where the caller has it already. ``tag`` defaults to a hash of the
    document.
    """
    document = jsonable_encoder(document)
    etag = f'"{tag or _hash(document)}"'
    headers = {"ETag": etag, "Cache-Control": cache}
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return JSONResponse(document, headers=headers)


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
