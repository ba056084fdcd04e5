"""Time of one pass, by a measured table."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import NANOSECONDS, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Form


class Latency(Kind):
    """A staircase per component (``plan.model.latency``)."""

    name = "latency"
    unit = NANOSECONDS
    title = "Latency of a pass"
    short = "latency"
    help = "Time of one pass on a machine that was measured ([how](../how-to/latency.md))."
    priced = "of a pass"
    example = "latency=12ms@batch=1,context=2048,phase=decode"
    options = ("batch", "context", "phase")
    needed = ("context", "phase")
    timed = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        return counts.timing(options.batch, options.context, options.phase).step_ns(component, rank)

    def constant(self, counts: Counts, options: Options) -> int:
        return counts.timing(options.batch, options.context, options.phase).constant_ns

    def measured_dense(self, counts: Counts, options: Options) -> int:
        return counts.timing(options.batch, options.context, options.phase).dense_ns
