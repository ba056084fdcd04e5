"""A finished compression's files, put where the command was told: complete or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from allocator.cli.app import bad_option
from allocator.errors import InvalidInput
from allocator.jobs.pipeline import CLOSED_FORM, EXPORTS, MOST_HEAL_STEPS


def check_export_and_heal(options: dict[str, Any]) -> None:
    """Raises InvalidInput for an export there is not, or too many steps of healing."""
    for name in options["export"]:
        if name not in EXPORTS:
            raise bad_option("export", name, " or ".join(EXPORTS))
    if not 0 <= options["heal"] <= MOST_HEAL_STEPS:
        raise bad_option("heal", str(options["heal"]), f"a number of steps from 0 to {MOST_HEAL_STEPS}")


def checked_out(out: Path) -> Path:
    """Where a command may write a new folder. Raises InvalidInput where something is in the way."""
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"--out: {out} exists and is not an empty folder; name a new one")
    _check_parents(out)
    return out


def checked_file(out: Path) -> Path:
    """Where a command may write a new file. Raises InvalidInput where something is in the way."""
    out = out.expanduser().resolve()
    if out.exists():
        raise InvalidInput(f"--out: {out} exists; name a new file")
    _check_parents(out)
    return out


def _check_parents(out: Path) -> None:
    """Raises InvalidInput where the folders above ``out`` neither exist nor can be made."""
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "may not be written to" if above.is_dir() else "is a file"
        raise InvalidInput(f"--out: {above} {what}; name a place below another folder")


def write_file(out: Path, content: str | bytes) -> None:
    """Write a command's one file, the folders above it too. Raises OSError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content.encode() if isinstance(content, str) else content)


def deliver(artifacts: Path, out: Path, exports: list[str]) -> None:
    """Copy the job's files beside ``out`` and rename: the folder appears complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    unwanted = [name for name in (*EXPORTS, CLOSED_FORM) if name not in exports]
    try:
        shutil.copytree(
            artifacts, temporary, ignore=lambda folder, names: unwanted if Path(folder) == artifacts else []
        )
        if out.exists():
            out.rmdir()
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
