"""Queries and keys of ``a3+``: rotary pairs chosen and rescaled in the softmax's metric; unrotated bases in the same metric.

With M the (h, h) moment of ``solvers.a3.metric`` and e = (1, .., 1, 0, .., 0) the gains of the dense model, keeping the pairs S
and dropping D costs, with the best complex gains θ_S on the kept ones,

    loss(S) = e_D' ( M_DD − M_DS M_SS^-1 M_SD ) e_D,        θ_S = e_S + M_SS^-1 M_SD e_D,

summed over the query heads that share the key head: the pairs are theirs together, the gains are each head's own. A gain
commutes with rotation, so it folds into W_q: ``q_a <- α q_a + β q_b``, ``q_b <- α q_b − β q_a``. Shapes and key are A3's.

Pairs leave by backward elimination, two rows of M^-1 at a time: the score of pair p is ``θ_p' [(M^-1)_pp]^-1 θ_p``. A3's choice
(largest energies, gains 1) is one feasible point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import damped, damping, solve_damped, tail_sums
from solvers.a3.moments import LayerMoments
from solvers.a3.qk import QKBases, QKPairs, grouped_bases, solve_qk
from solvers.a3.steps import Steps
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class QKGains:
    """Pairs in the order in which they are kept, per key/value head, and the metric that their gains are solved in."""

    pairs: QKPairs
    gram_HFF: torch.Tensor
    count: int

    @property
    def losses(self) -> torch.Tensor:
        """(h + 1,): at odd r the value for r - 1, since pairs cannot be split."""
        return self.pairs.losses

    @property
    def energy(self) -> float:
        return self.pairs.energy

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` (even) dimensions per query and key head, gains folded into the queries."""
        cut = self.pairs.apply(weights, rank)
        assert cut.pairs is not None
        half, group = self.pairs.order_KP.shape[1], weights.heads // weights.kv_heads
        alphas, betas = [], []
        for head in range(weights.heads):
            alpha, beta = self._gains(head, cut.pairs[head // group].long(), half)
            alphas.append(alpha)
            betas.append(beta)
        alpha_Hp, beta_Hp = torch.stack(alphas), torch.stack(betas)

        def turned(queries: torch.Tensor) -> torch.Tensor:
            """(..., H, r) with each pair multiplied by its gain."""
            a, b = queries.chunk(2, dim=-1)
            return torch.cat([alpha_Hp * a + beta_Hp * b, alpha_Hp * b - beta_Hp * a], dim=-1)

        return replace(
            cut,
            q_DHr=turned(cut.q_DHr),
            q_bias_Hr=None if cut.q_bias_Hr is None else turned(cut.q_bias_Hr),
        )

    def _gains(self, head: int, pairs: torch.Tensor, half: int) -> tuple[torch.Tensor, torch.Tensor]:
        gram = self.gram_HFF[head]
        dimensions = torch.cat([pairs, pairs + half])
        dropped_u = torch.ones(2 * half, dtype=torch.bool, device=gram.device)
        dropped_u[dimensions] = False
        dropped_u[half:] = False
        right = gram[dimensions][:, dropped_u].sum(1, keepdim=True)  # M_SD e_D: e is 1 on u, 0 on v
        change = solve_damped(
            gram[dimensions][:, dimensions], right, damping(len(dimensions), self.count)
        ).squeeze(1)
        return 1 + change[: len(pairs)], change[len(pairs) :]


def solve_qk_steps(moments: LayerMoments, steps: Steps) -> QKBases | QKPairs | QKGains:
    """Pairs or bases for all ranks of one layer, A3's but for the steps that are on.

    Queries and keys that are normalized keep their rank: theirs are A3's, for nobody to apply.
    """
    paper, metric, gains = solve_qk(moments), steps.qk_metric, steps.qk_gains
    if isinstance(paper, QKBases):
        return _bases(moments) if metric else paper
    if moments.pair_gram_HFF is None or not (metric or gains):
        return paper
    gram = moments.pair_gram_HFF / moments.count
    kv_heads = paper.order_KP.shape[0]
    pairs = paper
    if metric:
        order, losses = eliminate_pairs(
            gram.unflatten(0, (kv_heads, -1)), damping(gram.shape[-1], moments.count)
        )
        losses = losses.repeat_interleave(2)[: gram.shape[-1] + 1]
        pairs = QKPairs(losses=losses, energy=float(losses[0]), order_KP=order)
    return QKGains(pairs=pairs, gram_HFF=gram, count=moments.count) if gains else pairs


def eliminate_pairs(gram_KgFF: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward elimination of pairs: (K, P) from the last removed to the first, and losses (P + 1,) summed over heads.

    Args:
        gram_KgFF: M of every query head g of every key/value head.
        share: damping, as a share of the diagonal.
    """
    kv_heads, group, size = gram_KgFF.shape[:3]
    half = size // 2
    # (K, g, 2, P, 2, P): u and v of a pair side by side, so that a pair's rows and columns are one index each.
    inverse = torch.linalg.inv(damped(gram_KgFF, share)).view(kv_heads, group, 2, half, 2, half)
    theta = gram_KgFF.new_zeros(kv_heads, group, 2, half)
    theta[:, :, 0] = 1
    alive = torch.ones(kv_heads, half, dtype=torch.bool, device=gram_KgFF.device)
    all_heads = torch.arange(kv_heads, device=gram_KgFF.device)
    removed, scores = [], []
    for _ in range(half):
        corners = inverse.diagonal(dim1=3, dim2=5)  # (K, g, 2, 2, P)
        score = (theta * _solve_2(corners, theta)).sum((1, 2)).masked_fill(~alive, torch.inf)
        weakest = score.argmin(1)
        removed.append(weakest)
        scores.append(score[all_heads, weakest].clamp_min(0).sum())
        alive[all_heads, weakest] = False
        lines = inverse[all_heads, :, :, weakest].flatten(3)  # (K, g, 2, F)
        pivot = corners[all_heads, ..., weakest]  # (K, g, 2, 2)
        step = _solve_2(pivot.unsqueeze(-1), lines)
        theta -= (step.mT @ theta[all_heads, ..., weakest].unsqueeze(-1)).view(theta.shape)
        inverse -= (lines.mT @ step).view(inverse.shape)
        # A removed pair is left as an identity of its own, so that later solves of all corners stay defined.
        theta[all_heads, ..., weakest] = 0
        inverse[all_heads, :, :, weakest] = 0
        inverse[all_heads, ..., weakest] = 0
        inverse[all_heads, :, 0, weakest, 0, weakest] = 1
        inverse[all_heads, :, 1, weakest, 1, weakest] = 1
    order = torch.stack(removed, dim=1).flip(1)
    rising = torch.stack(scores).cumsum(0)
    return order, torch.cat([rising.flip(0), rising.new_zeros(1)])


def _solve_2(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Symmetric (..., 2, 2, n or 1) \\ (..., 2, n), all of them at once; LAPACK would be called for each."""
    a, b, d = matrix[..., 0, 0, :], matrix[..., 0, 1, :], matrix[..., 1, 1, :]
    x, y = right.unbind(-2)
    return torch.stack([d * x - b * y, a * y - b * x], dim=-2) / (a * d - b * b).unsqueeze(-2)


def _bases(moments: LayerMoments) -> QKBases:
    """Theorem 3.2 and its grouped form with the attention's covariance of the keys in place of their moment."""
    assert moments.key_covariance_Hhh is not None
    kv_heads = moments.k_Khh.shape[0]
    covariance = moments.key_covariance_Hhh.unflatten(0, (kv_heads, -1)).mean(1) / moments.count
    queries = moments.q_Hhh.unflatten(0, (kv_heads, -1)).sum(1) / moments.count
    values, to_query, to_key = grouped_bases(queries, covariance)
    losses = tail_sums(values.sum(0))
    # Sides share the scale evenly, so that neither leaves half precision's range.
    alive = values > values[..., :1] * torch.finfo(values.dtype).eps
    sizes = torch.where(alive, values.pow(0.25), 1).unsqueeze(-2)
    return QKBases(
        losses=losses,
        energy=float(losses[0]),
        to_query_Hhh=(to_query / sizes).repeat_interleave(moments.q_Hhh.shape[0] // kv_heads, dim=0),
        to_key_Khh=to_key * sizes,
    )
