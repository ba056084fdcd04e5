"""What a request chooses from, where a word says it."""

from __future__ import annotations

ALLOCATIONS = ("ilp", "uniform")
"""``ilp``: mixed ranks by the integer program; ``uniform``: the largest single ratio that fits."""
ILP, UNIFORM = ALLOCATIONS

NO_BITS = "none"
"""In place of weight bits: ranks alone."""
