"""How this process's C library deals with large blocks of memory; without effect where it is not glibc."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""From glibc's malloc.h."""
_KEPT_BYTES = 256 << 20


@cache
def keep_freed_memory() -> bool:
    """Let freed tensors be used again instead of going back to the system and coming back page by page.

    glibc maps every block beyond 32 MiB anew and gives it back at once. A batch's logits are such blocks, thousands of times in
    a profile: a third of its CPU time went to page faults. At most 256 MiB at the end of the heap stay unused between items.

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


def give_back_freed_memory() -> None:
    """Return what is free to the system: whoever waits for work should not sit on memory."""
    if keep_freed_memory.cache_info().currsize and keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)
