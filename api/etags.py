"""Answers that need not be sent again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fastapi import Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

IMMUTABLE = "private, max-age=31536000, immutable"


def cache_of(document: dict[str, Any]) -> str:
    """How long a profile or plan may be kept: for ever, but one that another team shares only until it is asked for again."""
    return "private, no-cache" if "shared_by" in document else IMMUTABLE


def tag_of(document: dict[str, Any], name: str) -> str:
    """The ETag of a profile or plan: its own name, and who shares it."""
    return f"{name}-{document['shared_by']}" if "shared_by" in document else name


def conditional_json(
    request: Request, document: dict[str, Any], *, tag: str | None = None, cache: str = "no-cache"
) -> Response:
    """``document`` with its ETag, or 304 where the caller has it already. ``tag`` defaults to a hash of the
    document.
    """
    document = jsonable_encoder(document)
    headers = {"ETag": f'"{tag or _hash(document)}"', "Cache-Control": cache}
    return _known(request, headers) or JSONResponse(document, headers=headers)


def conditional_bytes(
    request: Request, content: bytes, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """``content`` with its ETag, or 304 where the caller has it already. What it is made from never changes, but the next
    version of this service may make it otherwise.
    """
    etag = hashlib.sha256(content).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache", **(headers or {})}
    return _known(request, headers) or Response(content, media_type=media_type, headers=headers)


def _known(request: Request, headers: dict[str, str]) -> Response | None:
    """304 where the caller has named this ETag."""
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    found = headers["ETag"] in known or "*" in known
    return Response(status_code=304, headers=headers) if found else None


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
