"""Errors that say that there was no room to write, among all others."""

from __future__ import annotations

import errno
import re
import resource
import shutil

from allocator.base.errors import StorageFull
from allocator.base.settings import Settings

_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors, which raises an error of its own, names the system's."""


def storage_full(error: BaseException, settings: Settings) -> StorageFull | None:
    """The error for people where an error, or the one behind it, says that there was no room to write; None for any other."""
    cause: BaseException | None = error
    while cause is not None:
        number = _number(cause)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StorageFull(
                f"{_explanation(number, settings)} Make room, then submit the job again: what was measured is kept."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    match = _RUST.search(str(error))
    return None if match is None else int(match[1])


def _explanation(number: int, settings: Settings) -> str:
    if number == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"A file may not grow beyond {limit:,} bytes here (the worker's RLIMIT_FSIZE)."
    usage = shutil.disk_usage(settings.home)
    room = f"{usage.free:,} of {usage.total:,} bytes are free where the data directory is"
    if number == errno.EDQUOT:
        return f"The quota of the data directory's owner is used up; {room}."
    return f"There is no room left to write: {room} (`rankalloc clean` lets go of intermediate results)."
