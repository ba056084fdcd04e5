"""Model folders that a command is given by path."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from allocator.cli.app import stderr


def folder_at(path: Path) -> Path:
    """The model folder that somebody named by its path; links of the hub's own cache are followed in it."""
    from solvers.folder import given

    return given(path.expanduser().resolve())


def tell_aside(*folders: Path | None) -> None:
    """Say on standard error what of these folders is left aside. Raises UnreadableModelError."""
    from solvers.reading import aside_of

    for folder in folders:
        if folder is not None and (said := aside_of(folder)):
            stderr.print(f"  [dim]{escape(said)}[/dim]", soft_wrap=True)
