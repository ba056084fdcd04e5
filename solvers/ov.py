"""Values and output projection: fewer value dimensions for the same attention output.

A3 (arXiv 2505.12942v4) Thm 3.3 per head, section 3.4 per group (with the inverse on the left factor, where v4 misprints it),
both in head space on h x h moments. Losses are mean squared output errors per token, summed over heads; for grouped queries
they are the paper's objective on the value moments, which stand in for the attention-weighted ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.linalg import factor, tail_sums
from solvers.moments import LayerMoments
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
    kv_heads, group = weights.kv_heads, weights.heads // weights.kv_heads
    source = moments.z_Hhh if group == 1 else moments.v_Khh
    root, inverse = factor(source / moments.count)
    # (K, h, g D): the group's rows of W_o side by side.
    outputs = weights.o_HrD.unflatten(0, (kv_heads, group)).transpose(1, 2).flatten(2)
    wide = outputs.shape[-1] >= root.shape[-1]
    # A group's outputs narrower than a head need the whole left basis; the rest of it carries nothing.
    left, sigma, _ = torch.linalg.svd(root @ outputs, full_matrices=not wide)
    energies_h = torch.nn.functional.pad(sigma.square().sum(0), (0, root.shape[-1] - sigma.shape[-1]))
    losses = tail_sums(energies_h)
    return OVBases(
        losses=losses, energy=float(losses[0]), to_value_Khh=inverse @ left, from_value_Khh=left.mT @ root
    )
