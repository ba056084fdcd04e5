"""MLP of ``a3+``: a nested order by compensated backward elimination, and a refit of down_proj at any rank.

The layer's output is Y = X W with X (N, m) the neurons' activations, R = X'X / N, W (m, D). If only the neurons S are kept,
the best W_S in least squares is ``W_S + R_SS^-1 R_SD W_D`` and what remains lost is

    loss(S) = tr( W_D' [(R^-1)_DD]^-1 W_D )                          (the Schur complement R_DD - R_DS R_SS^-1 R_SD)

*Elimination* (the optimal-brain-surgeon step, Hassibi & Stork 1993, for whole rows): with P = R^-1, removing neuron i and
compensating adds exactly ``‖w_i‖² / P_ii``; afterwards W <- W - P_:i w_i / P_ii and P <- P - P_:i P_i: / P_ii. Taking the
least score again and again gives one nested order, hence every rank's loss, from one pass. A3 orders by
E[x_i²] ‖w_i‖² and leaves W as it is, so for the same S its loss is never smaller.

W itself is never touched: scores need only its Gram ``G = W W'``, which follows the same updates. Updates are delayed and
applied in blocks, each of the two symmetric matrices by one triangle, so the m³ work is two m³ operations of matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import damped_inverse, damping, silence_constants, solve_damped
from solvers.a3.mlp import MLPOrder, solve_mlp
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights

_BLOCK = 128
_PANEL = 512
"""Rows of an m x m matrix that are worked on at a time."""
_COMPACT = 0.9
"""Neurons that are gone stay in the matrices until they are a tenth of them."""
_ORDER_DAMPING = 1e-3
"""Least share of its own diagonal that P sees: the order needs no more digits, and dead neurons stay solvable."""


@dataclass(frozen=True)
class MLPRefit:
    """An order of neurons, and the moments that refitting down_proj needs: rank r keeps the first r."""

    neuron_order: MLPOrder
    moments: LayerMoments

    @property
    def losses(self) -> torch.Tensor:
        """(m + 1,): loss when r = 0..m neurons are kept, in mean squared output error per token."""
        return self.neuron_order.losses

    @property
    def energy(self) -> float:
        return self.neuron_order.energy

    @property
    def order_m(self) -> torch.Tensor:
        return self.neuron_order.order_m

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` neurons, in their original order, and down_proj refitted; the bias too, where there is one.

        With a bias b the refit has an intercept: least squares on centred activations, ``b <- b + x̄ W - x̄_S W_S``.
        """
        neurons = self.order_m[:rank].sort().values
        cut = self.neuron_order.apply(weights, rank)
        bias, start = weights.down_bias_D, weights.down_mD[neurons]
        dropped = self.order_m[rank:].sort().values
        count = self.moments.count
        gram_rr = self.moments.mlp_mm[neurons[:, None], neurons].div_(count)
        missing_rD = (self.moments.mlp_mm[neurons[:, None], dropped] @ weights.down_mD[dropped]).div_(count)
        mean_m = self.moments.mlp_m / count
        if bias is not None:
            energies = gram_rr.diagonal().clone()
            gram_rr -= torch.outer(mean_m[neurons], mean_m[neurons])
            missing_rD -= torch.outer(mean_m[neurons], mean_m[dropped] @ weights.down_mD[dropped])
            silence_constants(gram_rr, missing_rD, energies)
        down = start.add_(solve_damped(gram_rr, missing_rD, damping(rank, count)))
        if bias is not None:
            bias = bias + mean_m @ weights.down_mD - mean_m[neurons] @ down
        return replace(cut, down_mD=down, down_bias_D=bias)


def solve_mlp_refit(
    weights: LayerWeights, moments: LayerMoments, *, order: bool, refit: bool, known: MLPOrder | None = None
) -> MLPOrder | MLPRefit:
    """Order and refit for all ranks of one layer.

    Args:
        weights: the dense ones in float64.
        order: eliminate; else the order is A3's, and so are the losses, which are not compensated.
        refit: refit down_proj; else its rows are kept as they are (and the losses are those of the refit all the same).
        known: the order, where it was found before.
    """
    if known is not None:
        neuron_order = known
    elif not order or not weights.mlp_rank:  # an MLP that is left alone has no neurons to us
        neuron_order = solve_mlp(weights, moments)
    else:
        share = max(_ORDER_DAMPING, damping(weights.mlp_rank, moments.count))
        order_m, losses = eliminate(moments.mlp_mm, OutputGram(weights.down_mD), share)
        losses /= moments.count
        neuron_order = MLPOrder(losses=losses, energy=float(losses[0]), order_m=order_m)
    return MLPRefit(neuron_order, moments) if refit and weights.mlp_rank else neuron_order


@dataclass(frozen=True)
class OutputGram:
    """W W' (m, m), read row by row: it is never held as a whole."""

    down_mD: torch.Tensor

    def diagonal(self) -> torch.Tensor:
        return self.down_mD.square().sum(1)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.down_mD[rows] @ self.down_mD.T


def eliminate(
    moment_mm: torch.Tensor, gram_mm: torch.Tensor | OutputGram, share: float, *, block: int = _BLOCK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward elimination: neurons from the last removed to the first, and the loss at every rank 0..m.

    P and G are symmetric, so both are worked on in one m x m matrix: P below its diagonal, G above it.

    Args:
        moment_mm: R; ``share`` of its own diagonal is added before it is inverted.
        gram_mm: W W'.
        block: neurons removed between two updates of the matrices; the result does not depend on it but for rounding.
    """
    packed = damped_inverse(moment_mm, share)
    diagonal_p, diagonal_g = packed.diagonal().clone(), gram_mm.diagonal().clone()
    for start in range(0, len(packed), _PANEL):
        rows = slice(start, start + _PANEL)
        packed[rows] = packed[rows].tril_(start - 1) + gram_mm[rows].triu(start + 1)
    names = torch.arange(len(packed), device=packed.device)
    remaining, removed, scores = len(names), [], []
    while remaining:
        factors = packed.new_empty(2, min(block, remaining), len(names))
        gone, score = _eliminate_block(packed, diagonal_p, diagonal_g, factors)
        removed.append(names[gone])
        scores.append(score)
        remaining -= len(gone)
        if remaining < _COMPACT * len(names):
            alive = diagonal_g.isfinite().nonzero().squeeze(1)
            names, diagonal_p, diagonal_g = names[alive], diagonal_p[alive], diagonal_g[alive]
            packed, factors = _compacted(packed, alive), factors[..., alive]
        _update(packed, *factors)
    order = torch.cat(removed).flip(0)
    rising = torch.cat(scores).cumsum(0)
    return order, torch.cat([rising.flip(0), rising.new_zeros(1)])


def _eliminate_block(
    packed: torch.Tensor, diagonal_p: torch.Tensor, diagonal_g: torch.Tensor, factors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove as many neurons as ``factors`` (2, steps, m) has rows for; their indices and scores.

    Within the block P - U'U and G - U'B - B'U are kept as these factors U and B. Their diagonals are vectors and always up to
    date; that of G is infinite where a neuron is gone.
    """
    tiny = torch.finfo(packed.dtype).tiny
    gone, scores = [], []
    for step in range(factors.shape[1]):
        score = diagonal_g.clamp_min(0) / diagonal_p
        weakest = int(score.argmin())
        gone.append(weakest)
        scores.append(score[weakest])
        column_p, column_g = packed[:, weakest].clone(), packed[weakest].clone()
        column_p[:weakest], column_g[:weakest] = packed[weakest, :weakest], packed[:weakest, weakest]
        u, b = factors[:, :step]
        column_p.addmv_(u.T, u[:, weakest], alpha=-1)
        column_g.addmv_(u.T, b[:, weakest], alpha=-1).addmv_(b.T, u[:, weakest], alpha=-1)
        column_p[weakest], column_g[weakest] = diagonal_p[weakest], diagonal_g[weakest]
        root = diagonal_p[weakest].sqrt()
        new_u = column_p / root
        # Half of the neuron's own share in either factor: together they take away what G loses.
        new_b = (column_g - diagonal_g[weakest] / 2 * new_u / root) / root
        factors[0, step], factors[1, step] = new_u, new_b
        # Rounding may empty what is left of a removed or dependent direction; its score must stay a number.
        diagonal_p.addcmul_(new_u, new_u, value=-1).clamp_min_(tiny)
        diagonal_g.addcmul_(new_u, new_b, value=-2)
        diagonal_g[weakest] = torch.inf
    return torch.tensor(gone, device=packed.device), torch.stack(scores)


def _compacted(packed: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows and columns ``indices`` (ascending), moved to the front of the same memory."""
    size = len(indices)
    for start in range(0, size, _PANEL):
        rows = indices[start : start + _PANEL]
        packed[start : start + len(rows), :size] = packed[rows][:, indices]
    return packed[:size, :size]


def _update(packed: torch.Tensor, u: torch.Tensor, b: torch.Tensor) -> None:
    """Subtract U'U below the diagonal and U'B + B'U above it, in place and panel by panel."""
    left, right = torch.cat([u, b]), torch.cat([b, u])
    for start in range(0, len(packed), _PANEL):
        stop = min(start + _PANEL, len(packed))
        rows, below = slice(start, stop), slice(stop, None)
        packed[below, rows].addmm_(u[:, below].T, u[:, rows], alpha=-1)
        packed[rows, below].addmm_(left[:, rows].T, right[:, below], alpha=-1)
        corner = (u[:, rows].T @ u[:, rows]).tril(-1) + (left[:, rows].T @ right[:, rows]).triu(1)
        packed[rows, rows] -= corner
