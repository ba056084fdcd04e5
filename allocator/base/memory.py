"""Large blocks of memory in this process's C library; without effect where it is not glibc."""

from __future__ import annotations

import ctypes
import resource
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""
_KEPT_BYTES = 128 << 20
_PAGE_BYTES = resource.getpagesize()


@cache
def keep_freed_memory() -> bool:
    """Let freed tensors be used again instead of going back to the system and coming back page by page.

    glibc maps every block beyond 32 MiB anew and gives it back at once. A batch's logits are such blocks, thousands of times in
    a profile: a third of its CPU time went to page faults. At most 128 MiB at the end of the heap stay unused between items.

    Returns:
        whether the C library took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def _keeps() -> bool:
    """Whether `keep_freed_memory` was asked for and took."""
    return bool(keep_freed_memory.cache_info().currsize) and keep_freed_memory()


_grown_from = 0
"""Anonymous bytes in memory when freed memory was given back last."""


def give_back_grown_memory() -> None:
    """Return what is free to the system once the process has grown by 128 MiB since the last time: called after every pass.

    glibc before 2.38 does not find a freed block again for an aligned request of the same size, which all tensors are, so a
    heap that nobody trims grows to twice of what is used.
    """
    global _grown_from
    if _keeps() and _anonymous_bytes() > _grown_from + _KEPT_BYTES:
        give_back_freed_memory()
        _grown_from = _anonymous_bytes()


def _anonymous_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * _PAGE_BYTES


def give_back_freed_memory() -> None:
    """Return what is free to the system: whoever waits for work should not sit on memory."""
    if _keeps():
        ctypes.CDLL(None).malloc_trim(0)
