"""Model folders that a command is given by path."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from api.cli.console import stderr
from api.cli.hub_models import hub_folder


def path_of(named: str | Path) -> Path:
    """The folder of a model that was named by its path, or as it is called on the hub. Raises UnreadableModel."""
    return hub_folder(str(named)) or Path(named).expanduser().resolve()


def folder_at(named: str | Path) -> Path:
    """The same, where links of the hub's own cache are followed."""
    from allocator.stages.folders import given

    return given(path_of(named))


def tell_aside(*folders: Path | None) -> None:
    """Say on standard error what of these folders is left aside; what is no model is for others to refuse.

    Raises:
        UnreadableModelError: a config.json that cannot be read.
    """
    from allocator.stages.folders import aside_of

    for folder in folders:
        if folder is not None and (folder / "config.json").is_file() and (note := aside_of(folder)):
            stderr.print(f"  [dim]{escape(note)}[/dim]", soft_wrap=True)
