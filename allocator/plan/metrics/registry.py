"""All metrics. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from allocator.plan.metrics.flops import FlopsPerToken
from allocator.plan.metrics.kind import Kind
from allocator.plan.metrics.kv import KVBytesPerToken
from allocator.plan.metrics.latency import Latency
from allocator.plan.metrics.memory import Memory
from allocator.plan.metrics.params import BlockParams, Params
from allocator.plan.metrics.weight_bytes import WeightBytes

METRICS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Params(),
        BlockParams(),
        KVBytesPerToken(),
        FlopsPerToken(),
        Memory(),
        WeightBytes(),
        Latency(),
    )
}
"""By name, in the order in which they are listed everywhere."""

SUMMARY = tuple(name for name, kind in METRICS.items() if kind.summarized)
"""What every plan and report shows."""
