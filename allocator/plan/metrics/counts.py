"""Counts that metrics are made of: numbers of parameters, bytes and attended positions of a layer's component at a rank.

Per layer, with d hidden, H query and K key/value heads, E experts (1 without):

    parameters    d r_qk (H + K) + d r_ov (H + K) + E n_mlp d r_mlp + biases that shrink
    joint OV      d K r + K r K h + H h d in place of d r (H + K), with h the size of heads; the cache is as large
    latent QK     d H r + H r H h + d K h in place of d r (H + K); heads and cache are whole
    T_mean        the mean number of attended positions: (T + 1) / 2 in prefill, T in decode

A layer with a window of W < T positions attends to W (2T - W + 1) / 2T of them in the mean in prefill, rounded up to a half,
and to W in decode; its cache holds W positions of each sequence.

With a joint OV one token attends to the latent, K r numbers a head; many attend to values of whole heads that are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from allocator.base.errors import InvalidInput
from allocator.plan.model.dtypes import CACHES, FLOATS, QUANTIZED, WIDTHS, linear_bytes
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.latency import DECODE, LatencyTable, Timing
from allocator.plan.model.precision import JOINT, LATENT, Form, bits_in
from allocator.plan.targets.registry import PLAIN
from allocator.plan.targets.target import Target


@dataclass(frozen=True)
class Counts:
    """Counts of one geometry; ``latency``: where times are read from, ``target``: the engine that allocates the cache."""

    geometry: Geometry
    latency: LatencyTable | None = None
    target: Target = PLAIN

    @cached_property
    def fixed_params(self) -> int:
        """Parameters that no rank changes: embeddings, norms, head, router, biases of outputs."""
        g = self.geometry
        shrinking = sum(self.params_per_rank(c) * g.full_rank(c) * g.layers for c in COMPONENTS)
        return g.total_params - shrinking

    def matrix_params_per_rank(self, component: Component, experts: int) -> int:
        """Entries of the component's matrices per rank, with so many experts."""
        g = self.geometry
        return (
            experts * g.mlp_matrices * g.hidden if component == "mlp" else g.hidden * (g.heads + g.kv_heads)
        )

    def params_per_rank(self, component: Component) -> int:
        """Entries of its matrices and of the biases that shrink with it."""
        g = self.geometry
        bias = {
            "qk": g.qk_bias * (g.heads + g.kv_heads),
            "ov": g.ov_bias * g.kv_heads,
            "mlp": g.mlp_bias * (g.mlp_matrices - 1) * g.experts,
        }[component]
        return self.matrix_params_per_rank(component, g.experts) + bias

    def params(self, component: Component, rank: int, form: Form = None) -> int:
        """Entries of its tensors at a rank."""
        g = self.geometry
        if form == JOINT:
            return self.joint_params(rank) + g.ov_bias * g.kv_heads * rank
        if form == LATENT:
            return self.latent_params(rank) + g.qk_bias * (g.heads + g.kv_heads) * g.head_dim
        return self.params_per_rank(component) * rank

    def joint_params(self, rank: int) -> int:
        """Entries of the matrices of a joint OV: what makes the latent, what makes values of it, o_proj."""
        g = self.geometry
        values = g.kv_heads * g.head_dim
        return g.kv_heads * rank * (g.hidden + values) + g.heads * g.head_dim * g.hidden

    def latent_params(self, rank: int) -> int:
        """Entries of the matrices of a latent QK: what makes the latent, what makes queries of it, keys."""
        g = self.geometry
        queries = g.heads * g.head_dim
        return g.heads * rank * (g.hidden + queries) + g.hidden * g.kv_heads * g.head_dim

    def cached_bytes(self, kind: str | None, component: Component, rank: int, form: Form = None) -> int:
        """Bytes that the component adds by itself to the KV cache per token and layer, in the cache's type (None: the
        checkpoint's own).
        """
        size = self.head_size(rank, form)
        return self.target.cached_bytes(self.geometry, self._cache_width(kind), component, size)

    def head_size(self, rank: int, form: Form) -> int:
        """Dimensions of a head at this rank in the cache: all of them where its queries alone have a latent."""
        return self.geometry.head_dim if form == LATENT else rank

    def shared_bytes(self, kind: str | None, qk: int, ov: int) -> int:
        """Bytes that QK and OV of a layer add together, beyond what each adds by itself."""
        return self.target.shared_bytes(self.geometry, self._cache_width(kind), qk, ov)

    def positions(self, layer: int, context: int) -> int:
        """For how many positions of a sequence the layer's cache has room."""
        return self.target.positions(self.geometry, layer, context)

    def _cache_width(self, kind: str | None) -> int:
        return self.target.own_width(self.geometry) if kind is None else CACHES[kind]

    def weight_bytes(self, kind: str | None, component: Component, rank: int, form: Form = None) -> int:
        """Bytes of a component's tensors, biases included.

        Args:
            kind: the type that weights are loaded in (``plan.model.dtypes``); None: the checkpoint's own.
            form: bits that this component's weights are held in instead, or its latent.
        """
        g, bits = self.geometry, bits_in(form)
        # What is not quantized, and the scales of what is, come in the type that weights are loaded in.
        own_bytes, params = FLOATS.get(kind or "", g.bytes_per_param), self.params(component, rank, form)
        dtype = kind if bits is None else WIDTHS[bits]
        if dtype not in QUANTIZED or (component == "mlp" and g.experts > 1):
            return params * own_bytes
        shapes = g.matrices(component, rank, form=form)
        biases = params - sum(inputs * outputs for inputs, outputs in shapes)
        return biases * own_bytes + sum(linear_bytes(dtype, *shape, own_bytes) for shape in shapes)

    def fixed_bytes(self, kind: str | None) -> int:
        """Bytes of what no rank changes."""
        return self.fixed_params * FLOATS.get(kind or "", self.geometry.bytes_per_param)

    def twice_mean_attended(self, context: int, phase: str, layer: int) -> int:
        """Twice the mean number of attended positions, rounded up."""
        seen = self.geometry.seen(layer, context)
        return 2 * seen if phase == DECODE else -(-seen * (2 * context - seen + 1) // context)

    def timing(self, batch: int, context: int, phase: str) -> Timing:
        """The row of the table, see `timing_of`."""
        return timing_of(self.latency, batch, context, phase)


def timing_of(latency: LatencyTable | None, batch: int, context: int, phase: str) -> Timing:
    """The table's row of these. Raises InvalidInput without a table, or without such a row in it."""
    if latency is None:
        allowed = (
            "beside a table that rankalloc latency measured: --latency-table FILE, or latency_table over REST"
        )
        said = "a budget or metric of time works"
        raise InvalidInput.of("latency_table", "nothing", allowed, said, at="latency")
    return latency.timing(batch, context, phase)
