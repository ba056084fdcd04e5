"""Arithmetic per token."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import FLOPS, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.latency import PREFILL
from allocator.plan.model.precision import JOINT, LATENT, Form


class FlopsPerToken(Kind):
    """2 (matrix parameters that run) + 2 H (r_qk + r_ov) T_mean, plus 2 d V once for the head. Biases are not counted."""

    name = "flops_per_token"
    unit = FLOPS
    title = "FLOPs per token"
    short = "FLOPs/token"
    help = "FLOPs per token, attention and head included; `phase` is `prefill` or `decode`."
    priced = "FLOPs per token"
    example = "flops_per_token=0.8@context=2048,phase=prefill"
    options = ("context", "phase")
    summarized = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        if form == JOINT:
            return self._joint(counts, options, layer, rank)
        g = counts.geometry
        attended = 0
        if component != "mlp":
            attended = g.heads * counts.twice_mean_attended(options.context, options.phase, layer)
        if form == LATENT:
            return 2 * counts.latent_params(rank) + attended * g.head_dim
        return (2 * counts.matrix_params_per_rank(component, g.active_experts) + attended) * rank

    def _joint(self, counts: Counts, options: Options, layer: int, rank: int) -> int:
        g = counts.geometry
        twice = counts.twice_mean_attended(options.context, options.phase, layer)
        if options.phase == PREFILL:  # values are made of the latent once, then attended to as those of heads
            return 2 * counts.joint_params(rank) + g.heads * g.head_dim * twice
        latent = g.kv_heads * rank
        # What makes values of the latent is applied to what a head attended to, for every query head.
        more = (g.heads - g.kv_heads) * latent * g.head_dim
        return 2 * (counts.joint_params(rank) + more) + g.heads * latent * twice

    def constant(self, counts: Counts, options: Options) -> int:
        g = counts.geometry
        router = g.layers * g.experts if g.experts > 1 else 0
        return 2 * g.hidden * (g.vocab + router)
