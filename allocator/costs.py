"""What ranks cost, in exact integers: the one source for the program, the report and the check of written checkpoints.

Every metric is a constant plus a sum over components; per layer, with d hidden, H query and K key/value heads, E experts of
which A run for a token (both 1 without experts):

    block_params        d r_qk (H + K) + d r_ov (H + K) + E n_mlp d r_mlp + biases that shrink
    params              block_params + everything a rank cannot shrink (embeddings, norms, head, router, other biases)
    kv_bytes_per_token  K (r_qk + r_ov) bytes
    flops_per_token     2 (matrix parameters that run) + 2 H (r_qk + r_ov) T_mean, plus 2 d V once for the head
    memory              params x bytes + batch x min(context, W) x kv_bytes_per_token

T_mean is the mean number of attended positions: (T + 1) / 2 in prefill, T in decode. Bias additions are not counted.
A layer with a window of W < T positions attends to W (2T - W + 1) / 2T of them in the mean in prefill, rounded up to a half,
and to W in decode; its cache holds W positions of each sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from allocator.geometry import COMPONENTS, Component, Geometry

METRICS: dict[str, str] = {
    "params": "parameters",
    "block_params": "parameters",
    "kv_bytes_per_token": "bytes",
    "flops_per_token": "FLOPs",
    "memory": "bytes",
}
"""Metric -> unit."""

LARGEST_BATCH, LARGEST_CONTEXT = 10**6, 10**9
"""Of a cache whose size somebody asks for."""


@dataclass(frozen=True)
class Metric:
    """A metric with its options: ``batch`` and ``context`` for memory, ``context`` and ``phase`` for FLOPs."""

    name: str
    batch: int = 1
    context: int = 2048
    phase: str = "prefill"

    @property
    def label(self) -> str:
        """The metric as it is written in a budget."""
        if self.name == "memory":
            return f"memory@batch={self.batch},context={self.context}"
        if self.name == "flops_per_token":
            return f"flops_per_token@context={self.context},phase={self.phase}"
        return self.name

    @property
    def unit(self) -> str:
        return METRICS[self.name]


@dataclass(frozen=True)
class Ranks:
    """Ranks of every layer, layer by layer."""

    qk: tuple[int, ...]
    ov: tuple[int, ...]
    mlp: tuple[int, ...]

    def of(self, component: Component) -> tuple[int, ...]:
        return {"qk": self.qk, "ov": self.ov, "mlp": self.mlp}[component]

    @classmethod
    def dense(cls, geometry: Geometry) -> Ranks:
        return cls(*(tuple([geometry.full_rank(c)] * geometry.layers) for c in COMPONENTS))

    @classmethod
    def from_layers(cls, layers: Sequence[dict[str, int]]) -> Ranks:
        """From a plan's ``ranks``: [{layer, qk, ov, mlp}, ...] in layer order."""
        return cls(*(tuple(row[c] for row in layers) for c in COMPONENTS))

    def layers(self) -> list[dict[str, int]]:
        rows = enumerate(zip(self.qk, self.ov, self.mlp, strict=True))
        return [{"layer": index, "qk": qk, "ov": ov, "mlp": mlp} for index, (qk, ov, mlp) in rows]


@dataclass(frozen=True)
class CostModel:
    """Costs of ranks for one geometry."""

    geometry: Geometry
    _fixed_params: int = field(init=False)

    def __post_init__(self) -> None:
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

    def per_rank(self, metric: Metric, component: Component, layer: int) -> int:
        """What one unit of rank of the layer's component costs."""
        g = self.geometry
        kv_bytes = 0 if component == "mlp" else g.kv_heads * g.bytes_per_param
        if metric.name in ("params", "block_params"):
            return self._params_per_rank(component)
        if metric.name == "kv_bytes_per_token":
            return kv_bytes
        if metric.name == "memory":
            cached = metric.batch * g.seen(layer, metric.context)
            return self._params_per_rank(component) * g.bytes_per_param + cached * kv_bytes
        attended = 0 if component == "mlp" else g.heads * self._twice_mean(metric, layer)
        return 2 * self._matrix_params_per_rank(component, g.active_experts) + attended

    def _twice_mean(self, metric: Metric, layer: int) -> int:
        """Twice the mean number of attended positions, rounded up."""
        context, seen = metric.context, self.geometry.seen(layer, metric.context)
        return 2 * seen if metric.phase == "decode" else -(-seen * (2 * context - seen + 1) // context)

    def constant(self, metric: Metric) -> int:
        """What no rank can change."""
        g = self.geometry
        if metric.name == "params":
            return self._fixed_params
        if metric.name == "memory":
            return self._fixed_params * g.bytes_per_param
        if metric.name == "flops_per_token":
            router = g.layers * g.experts if g.experts > 1 else 0
            return 2 * g.hidden * (g.vocab + router)
        return 0

    def total(self, metric: Metric, ranks: Ranks) -> int:
        """The metric for a whole model at these ranks."""
        return self.constant(metric) + sum(
            self.per_rank(metric, c, layer) * rank
            for c in COMPONENTS
            for layer, rank in enumerate(ranks.of(c))
        )

    def summary(self, ranks: Ranks, *, context: int = 2048) -> dict[str, int]:
        """The four metrics that every report shows, FLOPs for a prefill of ``context`` tokens."""
        names = ("params", "block_params", "kv_bytes_per_token", "flops_per_token")
        return {name: self.total(Metric(name, context=context), ranks) for name in names}
