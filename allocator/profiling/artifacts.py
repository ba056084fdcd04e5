"""Content-named folders of intermediate tensors (moments, layers around a profile): hashed, checked on use, let go by rule.

They are files and not rows: of an 8B model they are some gigabytes, and whoever loses one computes it again. No torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from allocator.base.errors import RankallocError
from allocator.base.settings import Settings

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_DAY_S = 86_400.0
_SETTLED_S = 3600.0
"""A folder used within the last hour is never removed, whoever uses it."""


def publish_folder(source: Path, target: Path) -> None:
    """Give a finished folder its name, with a manifest of its files' hashes; of several that make the same one the first stays.

    Everything has reached the disk before the name is there. A manifest that an interrupted attempt has left is replaced.
    """
    files = sorted(path for path in source.iterdir() if path.is_file() and path.name != _MANIFEST)
    manifest = {path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in files}
    (source / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*files, source / _MANIFEST, source):
        sync(path)
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():  # somebody else was faster if it is
            raise
    sync(target.parent)


def is_published(folder: Path) -> bool:
    """Whether the folder is there; if so it counts as used now, so that whoever asked finds it an hour long."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return False
    return True


def checked_file(folder: Path, name: str) -> Path:
    """A file of a published folder, whose content is what was written; the folder counts as used now.

    Raises:
        RankallocError: it is gone or damaged. A damaged folder is put aside, so that it is made again.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        path = folder / name
        sound = path.stat().st_size == manifest[name]["bytes"] and _sha256(path) == manifest[name]["sha256"]
        os.utime(folder)
    except (OSError, ValueError, KeyError):
        if not folder.is_dir():
            raise RankallocError(
                f"intermediate results {folder.name[:12]} were removed while the job was running; submit it again"
            ) from None
        sound = False
    if not sound:
        shutil.rmtree(folder, ignore_errors=True)
        raise RankallocError(
            f"intermediate results {folder.name[:12]} were damaged on the disk and have been removed;"
            " submit the job again, what is stored in the database is reused"
        )
    return path


@dataclass(frozen=True)
class PublishedFolder:
    """A published folder as retention sees it."""

    path: Path
    bytes: int
    unused_s: float


def published_folders(settings: Settings) -> list[PublishedFolder]:
    """All published folders, used last first."""
    folders, now = [], time.time()
    for folder in settings.moments_dir.iterdir():
        try:
            size = sum(path.stat().st_size for path in folder.iterdir())
            folders.append(PublishedFolder(folder, size, now - folder.stat().st_mtime))
        except OSError:  # removed meanwhile
            continue
    return sorted(folders, key=lambda published: published.unused_s)


def prune(settings: Settings, needed: Collection[str], *, dry_run: bool = False) -> list[PublishedFolder]:
    """Remove what retention lets go; returns it.

    The rule: unused for ``moments_keep_days``, or beyond ``moments_keep_bytes`` in all, used longest ago first; never the
    ``needed`` names (those of open jobs), nor what was used within the last hour.
    """
    total, gone = 0, []
    for candidate in published_folders(settings):
        total += candidate.bytes
        expired = (
            candidate.unused_s > settings.moments_keep_days * _DAY_S or total > settings.moments_keep_bytes
        )
        if not expired or candidate.unused_s < _SETTLED_S or candidate.path.name in needed:
            continue
        gone.append(candidate)
        total -= candidate.bytes
        if not dry_run:
            shutil.rmtree(candidate.path, ignore_errors=True)
    if gone and not dry_run:
        freed = sum(candidate.bytes for candidate in gone)
        log.info("retention removed %d folders of intermediate results, %d bytes", len(gone), freed)
    return gone


def sync(path: Path) -> None:
    """Have a folder's entries, or a file's content, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
