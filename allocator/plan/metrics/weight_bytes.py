"""Bytes of the weights alone: what a checkpoint takes on disk, or a device holds before its first request."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import BYTES, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Form


class WeightBytes(Kind):
    """params x bytes; a component with bits of its own is counted in those."""

    name = "weight_bytes"
    unit = BYTES
    title = "Bytes of weights"
    short = "weight bytes"
    help = "Bytes of the weights, which is the size of the compact checkpoint."
    priced = "of weights"
    example = "weight_bytes=200MiB"
    options = ("weights",)
    counts_bits = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        return counts.weight_bytes(options.weights, component, rank, form)

    def constant(self, counts: Counts, options: Options) -> int:
        return counts.fixed_bytes(options.weights)
