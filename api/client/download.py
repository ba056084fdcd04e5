"""Files of a job onto this machine: beside their place first, checked, then renamed into it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from api.client.connection import Connection
from api.client.errors import ClientError, DownloadCorrupt, NoAnswer, TooManyRequests, Unavailable
from api.client.retrying import pause
from api.schemas.answers import ArtifactOut

_BLOCK = 1 << 20


def download(client: Connection, base: str, files: Sequence[ArtifactOut], out: Path) -> list[Path]:
    """`api.client.jobs.Jobs.download`; ``base`` is the address that names of files are added to."""
    # All names before any byte: a hostile list leaves nothing behind.
    places = [place(out, file.name) for file in files]
    out.mkdir(parents=True, exist_ok=True)
    for file, path in zip(files, places, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(out.resolve()):
            raise DownloadCorrupt(f"{file.name}: a link in {out} leads out of it")
        if not (path.is_file() and path.stat().st_size == file.size and _sha256(path) == file.sha256):
            _fetch(client, f"{base}/{quote(file.name)}", file, path)
    return places


def place(out: Path, name: str) -> Path:
    """The path of a file of this name. Raises DownloadCorrupt for a name that is not one of a file below ``out``."""
    parts = PurePosixPath(name).parts
    strange = any(char in name for char in "\\\0:") or name != "/".join(parts)
    if strange or not parts or any(part in ("..", ".", "/") for part in parts):
        raise DownloadCorrupt(f"{name[:200]!r} is no name of a file inside a folder")
    return out.joinpath(*parts)


def _fetch(client: Connection, url: str, file: ArtifactOut, path: Path) -> None:
    partial = path.with_name(f".{path.name[:150]}.{file.sha256[:16]}.partial")
    if partial.is_symlink():
        partial.unlink()
    attempt = 0
    while (have := partial.stat().st_size if partial.exists() else 0) < file.size or not partial.exists():
        try:
            _append(client, url, file, partial, have)
        except (NoAnswer, TooManyRequests, Unavailable) as error:
            # An attempt that brought something on does not count.
            attempt = 0 if partial.exists() and partial.stat().st_size > have else attempt + 1
            if attempt > client.retries:
                raise
            pause(attempt, error)
    if partial.stat().st_size != file.size or _sha256(partial) != file.sha256:
        partial.unlink()
        raise DownloadCorrupt(f"{file.name}: what came is not what its sha256 says; download it again")
    os.replace(partial, path)


def _append(client: Connection, url: str, file: ArtifactOut, partial: Path, have: int) -> None:
    """Bring on what is missing behind the first ``have`` bytes; all of it where the server gives no parts."""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{file.sha256}"'}
    with client.stream(url, headers=headers) as response:
        part = response.status_code == 206
        if part and not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
            raise ClientError(f"{file.name}: the server answered with another part than the one asked for")
        received = have if part else 0
        with partial.open("ab" if part else "wb") as target:
            for block in response.iter_bytes():
                received += len(block)
                if received > file.size:
                    break  # more than promised: the check below refuses it, whatever its length
                target.write(block)
        if received > file.size:
            partial.unlink()
            raise DownloadCorrupt(
                f"{file.name}: the server sends more than the {file.size} bytes it promised"
            )
        if received < file.size:
            raise NoAnswer(f"{file.name}: the connection ended after {received} of {file.size} bytes")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
