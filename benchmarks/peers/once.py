"""Values that ratios and methods share for one model and its windows, computed once: in memory, and in a folder if named."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VERSION = 1
"""Changes whenever a value may hold something else; older files are then left alone."""

STORABLE: list[type] = []
"""Classes of which files may hold instances."""


@dataclass(frozen=True)
class _Latest:
    """The values of one model and its windows; whatever belongs to others is let go."""

    model: weakref.ref[Any]
    windows: weakref.ref[torch.Tensor]
    versions: list[int]
    values: dict[str, Any] = field(default_factory=dict)


_latest: list[_Latest] = []
_folders: list[Path] = []


@contextmanager
def folder(path: Path) -> Iterator[None]:
    """Within it values are written to ``path`` too, and read from there: it must belong to one model and its windows."""
    path.mkdir(parents=True, exist_ok=True)
    _folders.append(path)
    try:
        yield
    finally:
        _folders.pop()


def once(name: str, model: Any, windows: torch.Tensor, make: Callable[[], Any]) -> Any:
    """The value that ``make`` returned for this very model, unchanged since, and windows; nobody may change it."""
    versions = [parameter._version for parameter in model.parameters()]
    for latest in _latest:
        if latest.model() is model and latest.windows() is windows and latest.versions == versions:
            break
    else:
        latest = _Latest(weakref.ref(model), weakref.ref(windows), versions)
        _latest[:] = [latest]
    if name not in latest.values:
        latest.values[name] = _stored(name, make)
    return latest.values[name]


def forget() -> None:
    """Free all values: what a folder has is read again when it is asked for."""
    _latest.clear()


def _stored(name: str, make: Callable[[], Any]) -> Any:
    if not _folders:
        return make()
    path = _folders[-1] / f"{name}-{VERSION}.pt"
    if path.is_file():
        with torch.serialization.safe_globals(list(STORABLE)):
            return torch.load(path, weights_only=True)
    value = make()
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.rename(path)
    return value
