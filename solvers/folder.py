"""Files of a model folder that nobody vouches for: by bare names, never outside of it, never larger than is to be read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from solvers.errors import UnreadableModelError

CONFIG_LIMIT_BYTES = 1 << 20
COMPANION_LIMIT_BYTES = 64 << 20
"""Largest tokenizer or generation file that is read or travels along."""

_LONGEST_NAME = 200


def inside(folder: Path, name: str, *, limit_bytes: int | None = None) -> Path:
    """A file of the folder by bare name; symbolic links out of the folder are refused.

    Raises:
        UnreadableModelError: not a bare name, missing, leading outside, or larger than ``limit_bytes``.
    """
    path = folder / name
    if Path(name).name != name or name in ("", ".", "..") or len(name) > _LONGEST_NAME:
        raise UnreadableModelError(
            f"{folder.name}: the file name {name[:_LONGEST_NAME]!r} is not a bare name inside the model folder"
        )
    if not path.is_file():
        raise UnreadableModelError(f"{folder.name}: {name} is missing; a model folder needs it")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UnreadableModelError(
            f"{folder.name}: {name} is a link that leaves the model folder; copy the file instead"
        )
    if limit_bytes is not None and path.stat().st_size > limit_bytes:
        raise UnreadableModelError(
            f"{folder.name}: {name} is larger than {limit_bytes} bytes and will not be read"
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
        raise UnreadableModelError(f"{folder.name}: {name} is not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise UnreadableModelError(f"{folder.name}: {name} must hold a JSON object")
    return document


def _finite(text: str) -> float:
    """A number of JSON; a NaN among the sizes of a norm would only show after hours, as a loss of NaN."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, whose keys must differ: of two values, readers disagree which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def tokenizer_options(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, or nothing where there is none."""
    name = "tokenizer_config.json"
    return read_json(folder, name, COMPANION_LIMIT_BYTES) if (folder / name).exists() else {}
