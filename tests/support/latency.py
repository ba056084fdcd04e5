"""Latency tables made by hand."""

from __future__ import annotations

from typing import Any

from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.latency import LatencyTable, read_table
from tests.support.profiles import SMALL


def table_document(geometry: Geometry = SMALL, *, slow: int = 1) -> dict[str, Any]:
    """Every third candidate measured; a step takes ``slow`` x 1000 ns per rank and ten times that for the MLP."""
    parts = {}
    for c in COMPONENTS:
        ranks = geometry.candidate_ranks(c)
        kept = sorted({*ranks[::3], ranks[-1]})
        each = slow * (1000 if c != "mlp" else 10_000)
        parts[c] = [{"rank": rank, "ns": each * (rank - kept[0]), "spread_ns": 7} for rank in kept]
    whole = geometry.layers * sum(steps[-1]["ns"] for steps in parts.values())
    timing = {
        "batch": 1,
        "context": 64,
        "phase": "decode",
        "dense_ns": whole + 100_000,
        "dense_spread_ns": 5,
        "constant_ns": 100_000,
        "parts": parts,
        "checks": [{"share": 0.5, "measured_ns": 10, "spread_ns": 1, "predicted_ns": 11}],
    }
    return {
        "schema": "rankalloc.latency/1",
        "geometry": geometry.document,
        "dtype": "bfloat16",
        "attention": "sdpa",
        "layers_measured": geometry.layers,
        "rounds": 5,
        "machine": {"device": "cpu", "name": "a CPU", "threads": 1, "torch": "2", "transformers": "5"},
        "timings": [timing, {**timing, "phase": "prefill", "dense_ns": 2 * whole + 200_000}],
    }


def table(geometry: Geometry = SMALL, *, slow: int = 1) -> LatencyTable:
    return read_table(table_document(geometry, slow=slow))
