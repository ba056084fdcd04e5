"""A finished compression's files, put where the command was told: complete or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.stages.pipeline import CLOSED_FORM, EXPORTS, MOST_HEAL_STEPS
from api.cli.console import bad_option


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
    if not out.parent.is_dir():
        raise InvalidInput(f"--out: {out.parent} does not exist; create it first")
    return out


def deliver(artifacts: Path, out: Path, exports: list[str]) -> None:
    """Copy the job's files beside ``out`` and rename: the folder appears complete or not at all."""
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
