"""Values and output projection: fewer value dimensions for the same attention output.

A3 (arXiv 2505.12942v4) Thm 3.3 per head, section 3.4 per group (with the inverse on the left factor, where v4 misprints it),
both in head space on h x h moments. Losses are mean squared output errors per token, summed over heads; for grouped queries
they are the paper's objective on the value moments, which stand in for the attention-weighted ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import factor, tail_sums
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class OVBases:
    """Per key/value head: values become v A, every head's rows of W_o become A^+ W_o; ranks are prefixes."""

    losses: torch.Tensor
    """(h + 1,): loss when r = 0..h dimensions are kept."""
    energy: float
    to_value_Khh: torch.Tensor
    from_value_Khh: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` dimensions per value head."""
        down_Khr = self.to_value_Khh[..., :rank]
        up_Hrh = self.from_value_Khh[:, :rank].repeat_interleave(weights.heads // weights.kv_heads, dim=0)
        return replace(
            weights,
            v_DKr=torch.einsum("dki,kir->dkr", weights.v_DKr, down_Khr),
            v_bias_Kr=None
            if weights.v_bias_Kr is None
            else torch.einsum("ki,kir->kr", weights.v_bias_Kr, down_Khr),
            o_HrD=up_Hrh @ weights.o_HrD,
        )


def solve_ov(weights: LayerWeights, moments: LayerMoments) -> OVBases:
    """Bases for all ranks of one layer. ``weights`` are the dense ones in float64."""
    source = moments.z_Hhh if weights.heads == weights.kv_heads else moments.v_Khh
    return ov_bases(weights, source / moments.count)


def ov_bases(weights: LayerWeights, moment_Khh: torch.Tensor) -> OVBases:
    """Bases for given value moments T'T: the left singular vectors of T [W_o,1 .. W_o,g], g the heads of a group.

    Only the (h, h) sum of W_o,i W_o,i' is formed. Squaring costs the order of singular values below sqrt(eps) of the largest,
    whose part in the loss is below eps.
    """
    root, inverse = factor(moment_Khh)
    outputs_Khh = (weights.o_HrD @ weights.o_HrD.mT).unflatten(0, (weights.kv_heads, -1)).sum(1)
    values, left = torch.linalg.eigh(root @ outputs_Khh @ root.mT)
    losses = tail_sums(values.flip(-1).clamp_min(0).sum(0))
    left = left.flip(-1)
    return OVBases(
        losses=losses, energy=float(losses[0]), to_value_Khh=inverse @ left, from_value_Khh=left.mT @ root
    )
