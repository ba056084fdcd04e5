"""Files of a model folder that nobody vouches for: by bare names, never outside of it, never larger than is to be read.

The hub's own cache keeps a commit as links: ``models--owner--name/snapshots/<commit>/config.json`` leads to
``models--owner--name/blobs/<hash>``. Such links are followed where a person named the folder (`given`), and nowhere else.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path, PosixPath
from typing import Any

from solvers.errors import UnreadableModelError

CONFIG_LIMIT_BYTES = 1 << 20
COMPANION_LIMIT_BYTES = 64 << 20
"""Largest tokenizer or generation file that is read or travels along."""

_LONGEST_NAME = 200


_REPOSITORY = re.compile(r"models--([A-Za-z0-9][A-Za-z0-9._-]*(?:--[A-Za-z0-9][A-Za-z0-9._-]*)?)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHOWN_DIGITS = 7


class Snapshot(PosixPath):
    """A commit in the hub's own cache, or a path in it: its links may lead into the blobs of its own repository."""


def given(folder: Path) -> Path:
    """A model folder that a person named on this machine: a `Snapshot` where it is one by its place."""
    return folder if _commit_of(folder) is None else Snapshot(folder)


def called(folder: Path) -> str:
    """The name of a model folder for people: its own, or ``owner/name@abcdef1`` of a commit in the hub's own cache."""
    origin = _commit_of(folder)
    return folder.name if origin is None else f"{origin[0]}@{origin[1][:_SHOWN_DIGITS]}"


def _commit_of(folder: Path) -> tuple[str, str] | None:
    """``(owner/name, commit)`` of a folder that lies where the hub's cache keeps one."""
    commit, snapshots, repository = (folder.name, folder.parent.name, folder.parent.parent.name)
    match = _REPOSITORY.fullmatch(repository)
    if match is None or snapshots != "snapshots" or not _COMMIT.fullmatch(commit):
        return None
    return match[1].replace("--", "/", 1), commit


def leads_inside(folder: Path, path: Path) -> bool:
    """Whether a path in ``folder``, links followed, is in there; or, for a `Snapshot`, in its repository's blobs."""
    real, target = folder.resolve(), path.resolve()
    if target.is_relative_to(real):
        return True
    commits = (
        [ancestor for ancestor in (real, *real.parents) if _commit_of(ancestor)]
        if isinstance(folder, Snapshot)
        else []
    )
    return any(target.parent == commit.parents[1] / "blobs" for commit in commits)


def inside(folder: Path, name: str, *, limit_bytes: int | None = None) -> Path:
    """A file of the folder by bare name; symbolic links out of the folder are refused, but for those of a `Snapshot`.

    Raises:
        UnreadableModelError: not a bare name, missing, leading outside, or larger than ``limit_bytes``.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", "..") or len(name) > _LONGEST_NAME:
        raise UnreadableModelError(
            f"{called(folder)}: the file name {name[:_LONGEST_NAME]!r} is not a bare name inside the model folder"
        )
    if not path.is_file():
        raise UnreadableModelError(f"{called(folder)}: {name} is missing; a model folder needs it")
    if not leads_inside(folder, path):
        raise UnreadableModelError(
            f"{called(folder)}: {name} is a link that leaves the model folder; copy the file instead"
        )
    if limit_bytes is not None and path.stat().st_size > limit_bytes:
        raise UnreadableModelError(
            f"{called(folder)}: {name} is larger than {limit_bytes} bytes and will not be read"
        )
    return path


def read_json(folder: Path, name: str, limit_bytes: int) -> dict[str, Any]:
    path = inside(folder, name, limit_bytes=limit_bytes)
    try:
        document = json.loads(
            path.read_text(encoding="utf-8"),
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=once,
        )
    except (ValueError, RecursionError) as error:
        raise UnreadableModelError(f"{called(folder)}: {name} is not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise UnreadableModelError(f"{called(folder)}: {name} must hold a JSON object")
    return document


def _finite(text: str) -> float:
    """A number of JSON; a NaN among the sizes of a norm would only show after hours, as a loss of NaN."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys must differ: of two values, readers disagree which one counts."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return entries


def tokenizer_options(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, or nothing where there is none."""
    name = "tokenizer_config.json"
    return read_json(folder, name, COMPANION_LIMIT_BYTES) if (folder / name).exists() else {}
