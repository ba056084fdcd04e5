"""Choices of a request that are made by a word."""

from __future__ import annotations

ILP, UNIFORM = ALLOCATIONS = ("ilp", "uniform")
"""How a plan's ranks are chosen: mixed ones by the integer program, or the largest single ratio that fits."""
