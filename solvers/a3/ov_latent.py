"""Values of all heads in one latent: the same cache as that many numbers of each head, for more of the function.

The values of a layer's K key/value heads, side by side, are v (K h). A latent c = v P of R numbers is cached in their place;
head k takes ``c U_k`` for its values. Attention is linear in them, so query head i puts out ``softmax(A_i) v P U_k(i) W_o,i``,
and U can wait until attention is done: one token attends to the latent itself. With S_i = softmax(A_i) v, the values of *all*
heads by the attention of one, the error of the layer's heads is

    Σ_i ‖S_i (E_k(i) − P U_k(i)) W_o,i‖²            E_k: the columns of head k

With the pooled moment M = Σ_i S_i'S_i / (H N) = T'T in the place of each head's own, and C the block diagonal of each group's
``Σ_i W_o,i W_o,i'``, this is ‖T (I − P U) C^½‖², whose best P, U of every R at once are ``T^-1 L_R`` and ``L_R' T`` with L the
eigenvectors of T C T' (Eckart-Young, as in A3's Theorem 3.3; one key/value head is that theorem). R = K r counts r numbers for
each head, as ranks of OV do.

What is left to gain is o_proj's refit over all heads, which needs the heads' moments across S; error feedback does it on the
compressed stream itself (``solvers.a3.feedback``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.latent import latent_bases
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class OVLatent:
    """Nested bases: the latents of all sizes are the first columns of one."""

    losses: torch.Tensor
    """(h + 1,): error under the pooled moment with r = 0..h numbers for each key/value head."""
    to_latent_VR: torch.Tensor
    from_latent_RV: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with a latent of ``rank`` numbers for each key/value head."""
        heads = weights.kv_heads
        down, up = self.to_latent_VR[:, : heads * rank], self.from_latent_RV[: heads * rank]
        bias = weights.v_bias_Kr
        return replace(
            weights,
            v_DKr=(weights.v_DKr.flatten(1) @ down).unflatten(1, (heads, rank)),
            v_bias_Kr=None if bias is None else (bias.flatten() @ down).unflatten(0, (heads, rank)),
            v_up_KRh=up.unflatten(1, (heads, -1)).transpose(0, 1),
        )


def solve_ov_latent(weights: LayerWeights, moments: LayerMoments) -> OVLatent | None:
    """Bases for all ranks of one layer; None where one key/value head has nobody to share with, or moments were taken without
    ``attended_VV``.

    Args:
        weights: the dense ones in float64.
    """
    if weights.kv_heads == 1 or moments.attended_VV is None:
        return None
    sums = weights.heads * moments.count
    groups_Khh = (weights.o_HrD @ weights.o_HrD.mT).unflatten(0, (weights.kv_heads, -1)).sum(1)
    metric = torch.block_diag(*groups_Khh)
    return OVLatent(*latent_bases(moments.attended_VV / sums, metric, moments.count, weights.kv_heads))
