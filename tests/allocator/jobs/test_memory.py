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


GROWING = """
import ctypes, json, sys
from allocator.base import memory

libc = ctypes.CDLL(None)
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def block(size):
    found = libc.aligned_alloc(64, size)
    libc.memset(found, 1, size)
    return found

assert memory.keep_freed_memory()
memory.give_back_grown_memory()
blocks = [block(8 << 20) for _ in range(50)]
last = block(1 << 20)  # what stays lies behind what goes
for each in blocks:
    libc.free(each)
before = memory._anonymous_bytes()
if sys.argv[1] == "watched":
    memory.give_back_grown_memory()
json.dump({"returned": (before - memory._anonymous_bytes()) / (400 << 20)}, sys.stdout)
"""


def test_a_heap_that_has_grown_is_given_back() -> None:
    returned = {}
    for how in ("watched", "plain"):
        done = subprocess.run(
            [sys.executable, "-c", GROWING, how], capture_output=True, text=True, check=True, cwd=ROOT
        )
        returned[how] = json.loads(done.stdout)["returned"]
    assert returned["watched"] > 0.9
    assert abs(returned["plain"]) < 0.1, "the block behind them keeps them in memory"
