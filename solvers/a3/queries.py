"""Queries of all heads made of one latent: two matrices in place of W_q, heads and caches as they were.

Queries of many heads look for much the same, which a cut of every head cannot say. A latent of R = H r numbers counts r for
each query head.

An error of queries is judged by what it does to the attention's output, to first order: with J_m the derivative of the output
of token m by all its queries,

    E ‖J_m δ_m‖²  ~  tr(C E[δ δ']),    C = E[J_m' J_m]        (the Kronecker approximation of ``solvers.a3.metric``)

C is the second moment of J_m' z for random signs z (E[z z'] = I): one backward pass through the layer's attention, which goes
through norms of heads, rotary positions, soft caps and the softmax as they are. A token's query changes its own output alone,
so all tokens take one pass together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.latent import latent_bases
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class QueryLatent:
    """Nested bases for latents of all sizes."""

    losses: torch.Tensor
    """(h + 1,): first-order squared error of the attention's output per token with r = 0..h numbers for each query head."""
    to_latent_QR: torch.Tensor
    from_latent_RQ: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with queries made of ``rank`` numbers for each query head. Their bias stays as it is."""
        size = weights.heads * rank
        down, up = self.to_latent_QR[:, :size], self.from_latent_RQ[:size]
        return replace(
            weights,
            q_down_DR=weights.q_DHr.flatten(1) @ down,
            q_DHr=up.unflatten(1, (weights.heads, -1)),
        )


def solve_queries(weights: LayerWeights, moments: LayerMoments) -> QueryLatent | None:
    """Bases for all ranks of one layer; None where moments were taken without ``query_QQ``.

    Args:
        weights: the dense ones in float64.
    """
    if moments.query_QQ is None or moments.query_effect_QQ is None:
        return None
    count = moments.count
    return QueryLatent(
        *latent_bases(moments.query_QQ / count, moments.query_effect_QQ / count, count, weights.heads)
    )
