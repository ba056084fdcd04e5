"""Bytes of weights and cache together."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import BYTES, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Form


class Memory(Kind):
    """params x bytes + batch x min(context, W) x kv_bytes_per_token.

    With four-bit weights costs are no straight lines, and not even monotone. A component with bits of its own is counted in
    those whatever ``weights`` says of the others.
    """

    name = "memory"
    unit = BYTES
    title = "Memory: weights and cache"
    short = "memory"
    help = "Bytes of the weights and of the KV cache of `batch` sequences of `context` tokens."
    priced = "of memory"
    example = "memory=24GiB@batch=8,context=131072"
    options = ("batch", "context", "weights", "cache")
    needed = ("context",)
    counts_bits = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        tokens = options.batch * counts.positions(layer, options.context)
        weights = counts.weight_bytes(options.weights, component, rank, form)
        return weights + tokens * counts.cached_bytes(options.cache, component, rank, form)

    def shared(self, counts: Counts, options: Options, layer: int, qk: int, ov: int) -> int:
        tokens = options.batch * counts.positions(layer, options.context)
        return tokens * counts.shared_bytes(options.cache, qk, ov)

    def constant(self, counts: Counts, options: Options) -> int:
        return counts.fixed_bytes(options.weights)
