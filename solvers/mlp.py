"""MLP: fewer neurons for the same output.

A3 (arXiv 2505.12942v4) section 3.3: keep the neurons with the largest λ_i = E[x_i²] ‖w_i‖², weights unscaled; the paper's root
of the m x m moment is not needed since its columns' squared norms are the moment's diagonal.
The loss is the exact one, tr(W_D' R_DD W_D) over the dropped neurons D: mean squared output error per token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.moments import LayerMoments
from solvers.qk import dropped_sums
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class MLPOrder:
    """Neurons in the order in which they are kept: rank r keeps the first r."""

    losses: torch.Tensor
    """(m + 1,): loss when r = 0..m neurons are kept."""
    energy: float
    order_m: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` neurons, in their original order, so that equal sets give equal tensors."""
        kept = self.order_m[:rank].sort().values
        return replace(
            weights,
            up_Dm=weights.up_Dm[:, kept],
            down_mD=weights.down_mD[kept],
            gate_Dm=None if weights.gate_Dm is None else weights.gate_Dm[:, kept],
            up_bias_m=None if weights.up_bias_m is None else weights.up_bias_m[kept],
            gate_bias_m=None if weights.gate_bias_m is None else weights.gate_bias_m[kept],
        )


def solve_mlp(weights: LayerWeights, moments: LayerMoments) -> MLPOrder:
    """Order for all ranks of one layer. ``weights`` are the dense ones in float64."""
    moment_mm = moments.mlp_mm / moments.count
    importance = moment_mm.diagonal() * weights.down_mD.square().sum(1)
    order = importance.argsort(descending=True, stable=True)
    losses = dropped_sums(moment_mm * (weights.down_mD @ weights.down_mD.T), order)
    return MLPOrder(losses=losses, energy=float(losses[0]), order_m=order)
