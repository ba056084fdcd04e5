"""Answers that need not be sent again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from allocator.base.errors import InvalidInput
from allocator.store.aliases import Expected
from allocator.store.shares import RowReference

IMMUTABLE = "private, max-age=31536000, immutable"
SVG = "image/svg+xml"
# A picture that is opened as a page of its own may style itself, and nothing else.
SVG_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
"""The description of a body of bytes."""


def cache_of(row: RowReference) -> str:
    """Cache-Control of a profile or plan: it lasts for ever, but one that another team shares is checked at every request."""
    return IMMUTABLE if row.shared_by is None else "private, no-cache"


def tag_of(row: RowReference, name: str) -> str:
    """The ETag of a profile or plan: its own name, and who shares it."""
    return name if row.shared_by is None else f"{name}-{row.shared_by}"


@dataclass(frozen=True)
class Rendered:
    """The body of an answer, with its ETag (without quotes) and the headers that belong to it."""

    body: bytes
    etag: str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    lasts: bool = True
    """Whether it is the same whenever it is made."""


def rendered_json(document: dict[str, Any], *, tag: str | None = None) -> Rendered:
    """``document`` as `JSONResponse` writes it; ``tag`` defaults to a hash of the document."""
    document = jsonable_encoder(document)
    return Rendered(bytes(JSONResponse(document).body), tag or _hash(document))


def rendered_bytes(content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Rendered:
    """``content`` with a hash of it. What it is made from never changes, but the next version of this service may make it
    otherwise: not to be kept for ever.
    """
    return Rendered(content, hashlib.sha256(content).hexdigest(), media_type, headers or {})


def conditional(request: Request, rendered: Rendered, *, cache: str = "no-cache") -> Response:
    """The answer, or 304 where the caller has it already."""
    headers = {"ETag": f'"{rendered.etag}"', "Cache-Control": cache, **rendered.headers}
    unchanged = _unchanged(request, headers)
    return unchanged or Response(rendered.body, media_type=rendered.media_type, headers=headers)


def conditional_json(
    request: Request, document: dict[str, Any], *, tag: str | None = None, cache: str = "no-cache"
) -> Response:
    """``document`` with its ETag, or 304 where the caller has it already. ``tag`` defaults to a hash of the
    document.
    """
    document = jsonable_encoder(document)
    headers = {"ETag": f'"{tag or _hash(document)}"', "Cache-Control": cache}
    return _unchanged(request, headers) or JSONResponse(document, headers=headers)


def conditional_bytes(
    request: Request, content: bytes, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """``content`` with its ETag, or 304 where the caller has it already."""
    return conditional(request, rendered_bytes(content, media_type, headers))


def expected_version(if_match: str | None, if_none_match: str | None) -> Expected:
    """The version that a caller expects of a numbered thing, by the headers of its request. A tag that this service never gave
    matches nothing.

    Raises:
        InvalidInput: If-None-Match that is not ``*``, or both headers.
    """
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            allowed = "`*` alone, to make what does not exist; If-Match to change what does"
            raise InvalidInput.of("If-None-Match", if_none_match[:80], allowed, "only")
        return "absent"
    if if_match is None:
        return None
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return "exists"
    numbers = [tag[1:-1] for tag in tags if len(tag) > 2 and tag[0] == tag[-1] == '"']
    return frozenset(
        int(number) for number in numbers if number.isascii() and number.isdigit() and len(number) < 19
    )


def _unchanged(request: Request, headers: dict[str, str]) -> Response | None:
    """304 where the caller has named this ETag."""
    tags = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    matches = headers["ETag"] in tags or "*" in tags
    return Response(status_code=304, headers=headers) if matches else None


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
