"""What ranks cost, in exact integers: the one source for the program, the report and the check of written checkpoints.

Every metric is a constant plus a sum over components; per layer, with d hidden, H query and K key/value heads, E experts of
which A run for a token (both 1 without experts):

    block_params        d r_qk (H + K) + d r_ov (H + K) + E n_mlp d r_mlp + biases that shrink
    params              block_params + everything a rank cannot shrink (embeddings, norms, head, router, other biases)
    kv_bytes_per_token  K (r_qk + r_ov) bytes
    flops_per_token     2 (matrix parameters that run) + 2 H (r_qk + r_ov) T_mean, plus 2 d V once for the head
    memory              params x bytes + batch x min(context, W) x kv_bytes_per_token
    latency             of a measured table (``allocator.plan.model.latency``), a staircase per component

Weights and cache may be counted in other types than the checkpoint's own (``plan.model.dtypes``); with four-bit weights costs
are then no straight lines, and not even monotone. A component with bits of its own (``plan.model.precision``) is counted in
those whatever the metric says of the others; memory alone sees bits.

T_mean is the mean number of attended positions: (T + 1) / 2 in prefill, T in decode. Bias additions are not counted.
A layer with a window of W < T positions attends to W (2T - W + 1) / 2T of them in the mean in prefill, rounded up to a half,
and to W in decode; its cache holds W positions of each sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.model.dtypes import CACHES, FLOATS, QUANTIZED, WIDTHS, linear_bytes
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.latency import LatencyTable, step_ns
from allocator.plan.model.precision import Bits, bits_of

METRICS: dict[str, str] = {
    "params": "parameters",
    "block_params": "parameters",
    "kv_bytes_per_token": "bytes",
    "flops_per_token": "FLOPs",
    "memory": "bytes",
    "latency": "ns",
}
"""Metric -> unit."""

LARGEST_BATCH, LARGEST_CONTEXT = 10**6, 10**9
"""Of a cache whose size somebody asks for."""


@dataclass(frozen=True)
class Metric:
    """A metric with its options: ``batch`` and ``context`` for memory, ``context`` and ``phase`` for FLOPs, all for latency.

    ``weights`` and ``cache`` are types (``allocator.plan.model.dtypes``); None is the checkpoint's own.
    """

    name: str
    batch: int = 1
    context: int = 2048
    phase: str = "prefill"
    weights: str | None = None
    cache: str | None = None

    @property
    def label(self) -> str:
        """The metric as it is written in a budget."""
        options = [
            *([f"batch={self.batch}"] if self.name in ("memory", "latency") else []),
            *([f"context={self.context}"] if self.name in ("memory", "flops_per_token", "latency") else []),
            *([f"phase={self.phase}"] if self.name in ("flops_per_token", "latency") else []),
            *([] if self.weights is None else [f"weights={self.weights}"]),
            *([] if self.cache is None else [f"cache={self.cache}"]),
        ]
        return f"{self.name}@{','.join(options)}" if options else self.name

    @property
    def unit(self) -> str:
        return METRICS[self.name]


@dataclass(frozen=True)
class Ranks:
    """Ranks of every layer, layer by layer, and the bits that weights are held in.

    ``bits`` has a row (qk, ov, mlp) for every layer; it is empty where every component is in the checkpoint's own type.
    """

    qk: tuple[int, ...]
    ov: tuple[int, ...]
    mlp: tuple[int, ...]
    bits: tuple[tuple[Bits, ...], ...] = field(default=(), kw_only=True)

    def of(self, component: Component) -> tuple[int, ...]:
        return {"qk": self.qk, "ov": self.ov, "mlp": self.mlp}[component]

    def bits_of(self, component: Component) -> tuple[Bits, ...]:
        """Of every layer."""
        if not self.bits:
            return (None,) * len(self.qk)
        spot = COMPONENTS.index(component)
        return tuple(row[spot] for row in self.bits)

    def at(self, layer: int, component: Component) -> tuple[int, Bits]:
        """Rank and bits."""
        bits = self.bits[layer][COMPONENTS.index(component)] if self.bits else None
        return self.of(component)[layer], bits

    def with_bits(self, bits: Sequence[Sequence[Bits]]) -> Ranks:
        """The same ranks with a row (qk, ov, mlp) of bits for every layer."""
        rows = tuple(tuple(row) for row in bits)
        return replace(self, bits=rows if any(each is not None for row in rows for each in row) else ())

    @classmethod
    def dense(cls, geometry: Geometry) -> Ranks:
        return cls(*(tuple([geometry.full_rank(c)] * geometry.layers) for c in COMPONENTS))

    @classmethod
    def from_layers(cls, layers: Sequence[dict[str, Any]]) -> Ranks:
        """From a plan's ``ranks``: [{layer, qk, ov, mlp, bits}, ...] in layer order, ``bits`` where there are some."""
        ranks = cls(*(tuple(row[c] for row in layers) for c in COMPONENTS))
        return ranks.with_bits([[bits_of(row).get(c) for c in COMPONENTS] for row in layers])

    def layers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"layer": index, "qk": qk, "ov": ov, "mlp": mlp}
            for index, (qk, ov, mlp) in enumerate(zip(self.qk, self.ov, self.mlp, strict=True))
        ]
        for row, bits in zip(rows, self.bits, strict=False):
            named = {c: each for c, each in zip(COMPONENTS, bits, strict=True) if each is not None}
            if named:
                row["bits"] = named
        return rows


def timing_of(latency: LatencyTable | None, metric: Metric) -> dict[str, Any]:
    """The table's row for a latency metric. Raises InvalidInput without a table, or without such a row in it."""
    if latency is None:
        allowed = (
            "beside a table that rankalloc latency measured: --latency-table FILE, or latency_table over REST"
        )
        raise InvalidInput(
            f"latency: a budget or metric of time works {allowed}",
            fields=[FieldError("latency_table", "nothing", allowed)],
        )
    return latency.timing(metric.batch, metric.context, metric.phase)


@dataclass(frozen=True)
class CostModel:
    """Costs of ranks for one geometry; latency on the machine that ``latency`` was measured on.

    Raises:
        InvalidInput: the table is of another shape of model.
    """

    geometry: Geometry
    latency: LatencyTable | None = None
    _fixed_params: int = field(init=False)
    _charged: dict[Any, tuple[int, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.latency is not None:
            self.latency.check_fits(self.geometry)
        dense = sum(
            self._params_per_rank(c) * self.geometry.full_rank(c) * self.geometry.layers for c in COMPONENTS
        )
        object.__setattr__(self, "_fixed_params", self.geometry.total_params - dense)

    def _matrix_params_per_rank(self, component: Component, experts: int) -> int:
        g = self.geometry
        return (
            experts * g.mlp_matrices * g.hidden if component == "mlp" else g.hidden * (g.heads + g.kv_heads)
        )

    def _params_per_rank(self, component: Component) -> int:
        g = self.geometry
        bias = {
            "qk": g.qk_bias * (g.heads + g.kv_heads),
            "ov": g.ov_bias * g.kv_heads,
            "mlp": g.mlp_bias * (g.mlp_matrices - 1) * g.experts,
        }[component]
        return self._matrix_params_per_rank(component, g.experts) + bias

    def cost_of(self, metric: Metric, component: Component, layer: int, rank: int, bits: Bits = None) -> int:
        """What the layer's component costs at a rank, an exact integer in the metric's unit: all costs come from here.

        Args:
            bits: what its weights are held in; None: as the metric says, else the checkpoint's own type.
        """
        g = self.geometry
        if metric.name == "latency":
            return step_ns(timing_of(self.latency, metric), component, rank)
        cached = 0 if component == "mlp" else g.kv_heads * rank
        cached *= g.bytes_per_param if metric.cache is None else CACHES[metric.cache]
        if metric.name in ("params", "block_params"):
            return self._params_per_rank(component) * rank
        if metric.name == "kv_bytes_per_token":
            return cached
        if metric.name == "memory":
            weights = self._weight_bytes(metric.weights, component, rank, bits)
            return weights + metric.batch * g.seen(layer, metric.context) * cached
        attended = 0 if component == "mlp" else g.heads * self._twice_mean(metric, layer)
        return (2 * self._matrix_params_per_rank(component, g.active_experts) + attended) * rank

    def charges(
        self,
        metric: Metric,
        component: Component,
        layer: int,
        ranks: Sequence[int],
        bits: Sequence[Bits] | None = None,
    ) -> tuple[int, ...]:
        """What a program charges for each of the ascending ``ranks``: their costs, or the most that a smaller one costs.

        A larger rank that happens to be stored in fewer bytes is charged too much and never too little; costs that rise with
        the rank, as all but those of four-bit weights do, are charged as they are.

        Args:
            bits: of each of ``ranks``; a rank is then compared with smaller ones in the same bits, and with the first, so that
                the first is the least for every metric.
        """
        given = (None,) * len(ranks) if bits is None else tuple(bits)
        # Layers differ by their windows alone.
        key = metric, component, self.geometry.seen(layer, metric.context), tuple(ranks), given
        if key not in self._charged:
            most: dict[Bits, int] = {}
            found: list[int] = []
            for rank, each in zip(ranks, given, strict=True):
                cost = self.cost_of(metric, component, layer, rank, each)
                most[each] = max(cost, most.get(each, cost), *found[:1])
                found.append(most[each])
            self._charged[key] = tuple(found)
        return self._charged[key]

    def _weight_bytes(self, kind: str | None, component: Component, rank: int, bits: Bits = None) -> int:
        """Bytes of a component's tensors, biases included."""
        g = self.geometry
        # What is not quantized, and the scales of what is, come in the type that weights are loaded in.
        own, params = FLOATS.get(kind or "", g.bytes_per_param), self._params_per_rank(component) * rank
        held = kind if bits is None else WIDTHS[bits]
        if held not in QUANTIZED or (component == "mlp" and g.experts > 1):
            return params * own
        shapes = g.matrices(component, rank)
        biases = params - sum(inputs * outputs for inputs, outputs in shapes)
        return biases * own + sum(linear_bytes(held, *shape, own) for shape in shapes)

    def _twice_mean(self, metric: Metric, layer: int) -> int:
        """Twice the mean number of attended positions, rounded up."""
        context, seen = metric.context, self.geometry.seen(layer, metric.context)
        return 2 * seen if metric.phase == "decode" else -(-seen * (2 * context - seen + 1) // context)

    def constant(self, metric: Metric) -> int:
        """What no rank can change."""
        g = self.geometry
        if metric.name == "latency":
            return int(timing_of(self.latency, metric)["constant_ns"])
        if metric.name == "params":
            return self._fixed_params
        if metric.name == "memory":
            return self._fixed_params * FLOATS.get(metric.weights or "", g.bytes_per_param)
        if metric.name == "flops_per_token":
            router = g.layers * g.experts if g.experts > 1 else 0
            return 2 * g.hidden * (g.vocab + router)
        return 0

    def total(self, metric: Metric, ranks: Ranks) -> int:
        """The metric for a whole model at these ranks."""
        return self.constant(metric) + sum(
            self.cost_of(metric, c, layer, rank, bits)
            for c in COMPONENTS
            for layer, (rank, bits) in enumerate(zip(ranks.of(c), ranks.bits_of(c), strict=True))
        )

    def dense(self, metric: Metric) -> int:
        """The dense model's metric, of which budgets are fractions: its measured time for latency."""
        if metric.name == "latency":
            return int(timing_of(self.latency, metric)["dense_ns"])
        return self.total(metric, Ranks.dense(self.geometry))

    def summary(self, ranks: Ranks, *, context: int = 2048) -> dict[str, int]:
        """The four metrics that every report shows, FLOPs for a prefill of ``context`` tokens."""
        names = ("params", "block_params", "kv_bytes_per_token", "flops_per_token")
        return {name: self.total(Metric(name, context=context), ranks) for name in names}
