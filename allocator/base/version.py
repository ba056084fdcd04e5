"""The version of rankalloc."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """The installed distribution's version; ``0+source`` where the code runs without being installed."""
    try:
        return version("rankalloc")
    except PackageNotFoundError:
        return "0+source"
