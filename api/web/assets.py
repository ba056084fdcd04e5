"""Scripts, styles and the icon, under a path that names their content; the pictures' style is one of them.

The hash is of the whole folder and stands before the file's name, so that modules may import each other by relative names and
a browser never mixes two versions.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from fastapi import APIRouter, Request, Response

from allocator.base.errors import NotFound
from allocator.report.figures.drawing import STYLE
from api.web.addresses import address
from api.web.etags import conditional_bytes

router = APIRouter(include_in_schema=False)

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@cache
def _files() -> dict[str, bytes]:
    folder = resources.files("api") / "static"
    files = {
        file.name: file.read_bytes()
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if "." + file.name.rpartition(".")[2] in _TYPES
    }
    return {**files, "figures.css": STYLE.encode()}


@cache
def version() -> str:
    """A hash of all files."""
    content = hashlib.sha256()
    for name, data in _files().items():
        content.update(f"{name}\0{len(data)}\0".encode() + data)
    return content.hexdigest()[:12]


def url(name: str) -> str:
    """The address of a file's present version. Raises KeyError for a file that is not there."""
    _files()[name]
    return address(f"/static/{version()}/{name}")


@router.get("/static/{requested}/{name}")
def static_file(requested: str, name: str, request: Request) -> Response:
    """One file. Only names of files that are there are looked up; nothing becomes a path."""
    data = _files().get(name)
    if data is None:
        raise NotFound("There is no such file.")
    # A page of another version may still be open somewhere: it gets what there is, but not for ever.
    headers = {"Cache-Control": _FOREVER if requested == version() else "no-cache"}
    return conditional_bytes(request, data, _TYPES["." + name.rpartition(".")[2]], headers)
