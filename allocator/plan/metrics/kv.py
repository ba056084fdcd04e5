"""Bytes of KV cache per token."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import BYTES, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Form


class KVBytesPerToken(Kind):
    """K (r_qk + r_ov) numbers a layer, in the cache's type; what the target allocates, where one is named."""

    name = "kv_bytes_per_token"
    unit = BYTES
    title = "KV cache per token"
    short = "KV bytes/token"
    help = "Bytes of K and V that one more token adds to the cache, all layers."
    priced = "of KV cache per token"
    example = "kv_bytes_per_token=0.5"
    options = ("cache",)
    summarized = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        return counts.cached_bytes(options.cache, component, rank, form)

    def shared(self, counts: Counts, options: Options, layer: int, qk: int, ov: int) -> int:
        return counts.shared_bytes(options.cache, qk, ov)
