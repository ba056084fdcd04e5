"""MLP: fewer neurons for the same output.

A3 (arXiv 2505.12942v4) section 3.3: keep the neurons with the largest λ_i = E[x_i²] ‖w_i‖², weights unscaled; the paper's root
of the m x m moment is not needed since its columns' squared norms are the moment's diagonal.
The loss is the exact one, tr(W_D' R_DD W_D) over the dropped neurons D: mean squared output error per token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import tail_sums
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights

_PANEL = 512
"""Rows of the m x m terms that are held at a time."""


@dataclass(frozen=True)
class MLPOrder:
    """Neurons in the order in which they are kept: rank r keeps the first r."""

    losses: torch.Tensor
    """(m + 1,): loss when r = 0..m neurons are kept."""
    energy: float
    order_m: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` neurons, in their original order, so that equal sets give equal tensors."""
        neurons = self.order_m[:rank].sort().values
        return replace(
            weights,
            up_Dm=weights.up_Dm[:, neurons],
            down_mD=weights.down_mD[neurons],
            gate_Dm=None if weights.gate_Dm is None else weights.gate_Dm[:, neurons],
            up_bias_m=None if weights.up_bias_m is None else weights.up_bias_m[neurons],
            gate_bias_m=None if weights.gate_bias_m is None else weights.gate_bias_m[neurons],
        )


def solve_mlp(weights: LayerWeights, moments: LayerMoments) -> MLPOrder:
    """Order for all ranks of one layer. ``weights`` are the dense ones in float64."""
    importance = moments.mlp_mm.diagonal() * weights.down_mD.square().sum(1)
    order = importance.argsort(descending=True, stable=True)
    down, cross_terms = weights.down_mD[order], []
    for start in range(0, len(order), _PANEL):
        rows, rest = order[start : start + _PANEL], order[start:]
        terms = down[start : start + _PANEL] @ down[start:].T
        cross_terms.append((terms.mul_(moments.mlp_mm[rows[:, None], rest])).triu_(1).sum(1))
    # Dropped beside all that come after it, a neuron costs its own term and both its cross terms with each of them.
    added = importance[order] + 2 * torch.cat([importance.new_zeros(0), *cross_terms])
    losses = tail_sums(added / moments.count)
    return MLPOrder(losses=losses, energy=float(losses[0]), order_m=order)
