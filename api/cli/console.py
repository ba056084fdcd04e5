"""Settings, the two streams and refusals of options, for every command."""

from __future__ import annotations

import codecs
import errno
import io
import json
import logging
import sys
import warnings
from typing import Any

from pydantic import ValidationError
from rich.console import Console, RenderableType

from allocator.base import errors
from allocator.base.settings import DEVICES, Settings

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a file that finds no room."""
# No pictures: a name may hold :train:
stderr = Console(stderr=True, highlight=False, emoji=False)
stdout = Console(highlight=False, emoji=False)


_ASCII = {"→": ">", "±": "+-", "…": "."}
"""Substitutes for signs of ours that a stream cannot say, of the same width for tables."""


def _sayable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "only what is written is asked for"
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("rankalloc.sayable", _sayable)


def speak_any_encoding() -> None:
    """Have both streams replace what their encoding lacks, such as a model's name on an ASCII terminal, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="rankalloc.sayable")


def hush(quiet: bool) -> bool:
    """Keep everything but errors off standard error, or no longer."""
    stderr.quiet = quiet
    if logging.lastResort is not None:  # where logs go that nobody has configured
        logging.lastResort.setLevel(logging.ERROR if quiet else logging.WARNING)
    if quiet:
        warnings.simplefilter("ignore")
    return quiet


def settings() -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: an environment variable holds an impossible value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "RANKALLOC_" + "_".join(str(part) for part in first["loc"]).upper()
        raise errors.InvalidInput(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


def answer(document: Any, view: RenderableType, *, json_output: bool) -> None:
    """Print a command's result: one JSON document, or a table or line for people, taken as it is."""
    if json_output:
        emit(document)
    elif isinstance(view, str):
        stdout.print(view, soft_wrap=True, markup=False)
    else:
        stdout.print(view)


def bad_option(name: str, value: str, allowed: str) -> errors.InvalidInput:
    """The error of an option whose value is none of the allowed ones."""
    return errors.InvalidInput.of(name, value, allowed, at=f"--{name}")


def on_device(configured: Settings, device: str | None) -> Settings:
    """The settings with the device that ``--device`` names, if it names one. Raises InvalidInput for another."""
    if device is None:
        return configured
    if device not in DEVICES:
        raise bad_option("device", device, " or ".join(DEVICES))
    return configured.model_copy(update={"device": device})


def emit(document: dict[str, Any]) -> None:
    """Write the command's one JSON document."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
