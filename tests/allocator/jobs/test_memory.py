"""Blocks that are freed and wanted again, counted by the page faults of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.processes import ROOT

PROGRAM = """
import ctypes, json, resource, sys
from allocator.base.memory import give_back_freed_memory, keep_freed_memory

SIZE, TIMES = 64 << 20, 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = faults()
for _ in range(TIMES):
    block = libc.malloc(SIZE)
    libc.memset(block, 1, SIZE)
    libc.free(block)
counted, held = faults() - before, resident()
give_back_freed_memory()
json.dump({"faults": counted * resource.getpagesize() / SIZE, "returned": (held - resident()) / SIZE}, sys.stdout)
"""


def measured(how: str) -> dict[str, float]:
    """Blocks' worth of page faults, and of memory that went back to the system in the end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return dict(json.loads(done.stdout))


def test_large_blocks_are_used_again_and_given_back_in_the_end() -> None:
    kept = measured("kept")
    assert kept["faults"] < 2, "touched once, not twenty times"
    assert kept["returned"] > 0.9


def test_nothing_changes_for_who_did_not_ask() -> None:
    plain = measured("plain")
    assert abs(plain["returned"]) < 0.1
