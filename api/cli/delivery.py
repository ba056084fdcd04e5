"""A finished compression's files, put where the command was told: complete or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from allocator.base.errors import InvalidInput, RankallocError, StorageFull
from allocator.stages.exports import EXPORTS
from allocator.stages.pipeline import CLOSED_FORM
from api.cli.console import NO_ROOM


def checked_out(out: Path) -> Path:
    """The place of a new folder that a command may write. Raises InvalidInput where something is in the way."""
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"--out: {out} exists and is not an empty folder; name a new one")
    _check_parents(out)
    return out


def checked_file(out: Path) -> Path:
    """The place of a new file that a command may write. Raises InvalidInput where something is in the way."""
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
    """Write a command's one file, the folders above it too: whole or not at all. Raises StorageFull and InvalidInput."""
    data = content.encode() if isinstance(content, str) else content
    temporary = out.with_name(f".{out.name[:100]}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        way_out = "run it again: what was measured and planned is stored"
        raise _not_written(out, error, way_out, len(data)) from None


def _not_written(out: Path, error: OSError, way_out: str, size: int) -> RankallocError:
    """The error of an ``--out`` of so many bytes that cannot be written."""
    if error.errno in NO_ROOM:
        return StorageFull(
            f"--out: there is no room for the {size:,} bytes of {out} ({error.strerror});"
            f" make room or name another place, then {way_out}"
        )
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        reason = str(error.args[0][0][2])  # of (source, target, reason) each
    else:
        reason = error.strerror or str(error)
    return InvalidInput(f"--out: {error.filename or out}: {reason}; name another place, then {way_out}")


def deliver(artifacts: Path, out: Path, exports: list[str] | None, *, way_out: str | None = None) -> None:
    """Copy the job's files beside ``out`` and rename: the folder appears complete or not at all.

    Args:
        exports: those that were asked for; None: all that were written.
        way_out: what can be done where there is no room, as a phrase; default: the finished files lie in ``artifacts``.

    Raises:
        StorageFull, InvalidInput: it cannot be written.
    """
    way_out = (
        way_out or f"copy the finished files from {artifacts}, or run it again: nothing is measured twice"
    )
    unwanted = [name for name in EXPORTS if exports is not None and name not in exports] + [CLOSED_FORM]
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.relative_to(artifacts).parts[0] not in unwanted)

    def copied(source: str, target: str) -> None:
        try:
            shutil.copy2(source, target)
        except OSError as error:  # copytree would go on, and end with a list of them
            raise _not_written(out, error, way_out, size) from None

    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(
            artifacts,
            temporary,
            ignore=lambda folder, names: unwanted if Path(folder) == artifacts else [],
            copy_function=copied,
        )
        if out.exists():
            out.rmdir()
        os.rename(temporary, out)
    except OSError as error:
        raise _not_written(out, error, way_out, size) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
