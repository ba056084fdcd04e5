"""MLP of ``a3+``: a nested order by compensated backward elimination, and a refit of down_proj at any rank.

The layer's output is Y = X W with X (N, m) the neurons' activations, R = X'X / N, W (m, D). If only the neurons S are kept,
the best W_S in least squares is ``W_S + R_SS^-1 R_SD W_D`` and what remains lost is

    loss(S) = tr( W_D' [(R^-1)_DD]^-1 W_D )                          (the Schur complement R_DD - R_DS R_SS^-1 R_SD)

*Elimination* (the optimal-brain-surgeon step, Hassibi & Stork 1993, for whole rows): with P = R^-1, removing neuron i and
compensating adds exactly ``‖w_i‖² / P_ii``; afterwards W <- W - P_:i w_i / P_ii and P <- P - P_:i P_i: / P_ii. Taking the
least score again and again gives one nested order, hence every rank's loss, from one pass. A3 orders by
E[x_i²] ‖w_i‖² and leaves W as it is, so for the same S its loss is never smaller.

W itself is never touched: scores need only its Gram ``G = W W'``, which follows the same updates. Updates are delayed and
applied in blocks, so the m³ work is matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.linalg import damped, damping, solve_damped
from solvers.mlp import MLPOrder
from solvers.moments import LayerMoments
from solvers.weights import LayerWeights

_BLOCK = 64
_ORDER_DAMPING = 1e-3
"""Least share of the mean diagonal that P sees: the order needs no more digits, and dead neurons stay solvable."""


@dataclass(frozen=True)
class MLPRefit:
    """An order of neurons and what refitting down_proj needs: rank r keeps the first r."""

    losses: torch.Tensor
    """(m + 1,): loss when r = 0..m neurons are kept, in mean squared output error per token."""
    energy: float
    order_m: torch.Tensor
    moment_mm: torch.Tensor
    mean_m: torch.Tensor
    count: int

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` neurons, in their original order, and down_proj refitted; the bias too, where there is one.

        With a bias b the refit has an intercept: least squares on centred activations, ``b <- b + x̄ W - x̄_S W_S``.
        """
        kept = self.order_m[:rank].sort().values
        cut = MLPOrder(self.losses, self.energy, self.order_m).apply(weights, rank)
        bias = weights.down_bias_D
        moment = self.moment_mm if bias is None else self.moment_mm - torch.outer(self.mean_m, self.mean_m)
        out = torch.ones_like(self.order_m, dtype=torch.bool)
        out[kept] = False
        missing_rD = moment[kept][:, out] @ weights.down_mD[out]
        down = weights.down_mD[kept] + solve_damped(
            moment[kept][:, kept], missing_rD, damping(rank, self.count)
        )
        if bias is not None:
            bias = bias + self.mean_m @ weights.down_mD - self.mean_m[kept] @ down
        return replace(cut, down_mD=down, down_bias_D=bias)


def solve_mlp_refit(
    weights: LayerWeights, moments: LayerMoments, paper: MLPOrder, *, order: bool, refit: bool
) -> MLPOrder | MLPRefit:
    """Order and refit for all ranks of one layer.

    Args:
        weights: the dense ones in float64.
        paper: A3's order of the same layer.
        order: eliminate; else A3's order is kept, and its uncompensated losses with it.
        refit: refit down_proj; else its rows are kept as they are (and the losses are those of the refit all the same).
    """
    if not (order or refit) or not len(paper.order_m):  # an MLP that is left alone has no neurons to us
        return paper
    moment = moments.mlp_mm / moments.count
    found, losses = paper.order_m, paper.losses
    if order:
        found, losses = eliminate(
            moment,
            weights.down_mD @ weights.down_mD.T,
            max(_ORDER_DAMPING, damping(len(moment), moments.count)),
        )
    if not refit:
        return MLPOrder(losses=losses, energy=float(losses[0]), order_m=found)
    return MLPRefit(
        losses=losses,
        energy=float(losses[0]),
        order_m=found,
        moment_mm=moment,
        mean_m=moments.mlp_m / moments.count,
        count=moments.count,
    )


def eliminate(
    moment_mm: torch.Tensor, gram_mm: torch.Tensor, share: float, *, block: int = _BLOCK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward elimination: neurons from the last removed to the first, and the loss at every rank 0..m.

    Args:
        moment_mm: R; ``share`` of its mean diagonal is added before it is inverted.
        gram_mm: W W'.
        block: neurons removed between two updates of the matrices; the result does not depend on it but for rounding.
    """
    size = len(moment_mm)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(moment_mm, share)))
    gram = gram_mm.clone()
    names = torch.arange(size, device=moment_mm.device)
    removed, scores = [], []
    while len(names):
        gone, score, inverse, gram = _eliminate_block(inverse, gram, min(block, len(names)))
        removed.append(names[gone])
        scores.append(score)
        alive = torch.ones_like(names, dtype=torch.bool)
        alive[gone] = False
        names = names[alive]
        inverse, gram = inverse[alive][:, alive], gram[alive][:, alive]
    order = torch.cat(removed).flip(0)
    rising = torch.cat(scores).cumsum(0)
    return order, torch.cat([rising.flip(0), rising.new_zeros(1)])


def _eliminate_block(
    inverse: torch.Tensor, gram: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Remove ``steps`` neurons; within the block P = inverse - U U' and G = gram - C B' - B C' are kept as factors."""
    size = len(inverse)
    factors_u, factors_c, factors_b = (inverse.new_zeros(size, steps) for _ in range(3))
    diagonal_p, diagonal_g = inverse.diagonal().clone(), gram.diagonal().clone()
    gone, scores = [], []
    for step in range(steps):
        score = diagonal_g.clamp_min(0) / diagonal_p
        least = int(score.argmin())
        gone.append(least)
        scores.append(score[least])
        u, c, b = factors_u[:, :step], factors_c[:, :step], factors_b[:, :step]
        column_p = inverse[:, least] - u @ u[least]
        column_g = gram[:, least] - c @ b[least] - b @ c[least]
        pivot = column_p[least]
        new_u, new_c = column_p / pivot.sqrt(), column_p / pivot
        new_b = column_g - column_g[least] / 2 * new_c
        factors_u[:, step], factors_c[:, step], factors_b[:, step] = new_u, new_c, new_b
        diagonal_p, diagonal_g = diagonal_p - new_u.square(), diagonal_g - 2 * new_c * new_b
        diagonal_g[gone] = torch.inf
        # Rounding may empty what is left of a removed or dependent direction; its score must stay a number.
        diagonal_p = diagonal_p.clamp_min(torch.finfo(diagonal_p.dtype).tiny)
    cross = factors_c @ factors_b.T
    return (
        torch.tensor(gone, device=inverse.device),
        torch.stack(scores),
        inverse - factors_u @ factors_u.T,
        gram - cross - cross.T,
    )
