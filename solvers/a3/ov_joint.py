"""Values and output projection of ``a3+``: head-specific moments under grouped queries, and a joint refit of W_o.

*Heads.* A3's grouped form puts the moment of the plain values in place of the attention-weighted ones. With Z_i the input of
o_proj for query head i (softmax(A_i) V) and G_i = Z_i'Z_i / N, the group's problem is

    min over A (h, r) and D_i (r, D):   Σ_i ‖Z_i (W_o,i − A D_i)‖²

For given A each D_i = (A'G_i A)^-1 A'G_i W_o,i is exact. A comes from the SVD with the pooled moment Σ_i G_i, which is optimal
where the G_i are proportional; alternating further lowered end-to-end losses by under two per cent and is left out.
One query head per key/value head: this is Theorem 3.3 itself.

*Joint refit.* A3 bounds the error of the sum over heads by the sum of the heads' errors. With all heads' compressed
values side by side, Z̃ = Z blockdiag(A), the whole W_o is one least-squares problem,
``W_o <- (Z̃'Z̃)^-1 Z̃'Z W_o``, which contains A3's solution: the training error is never larger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import damped, damping, silence_constants, solve_damped
from solvers.a3.moments import LayerMoments
from solvers.a3.ov import OVBases, ov_bases, solve_ov
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class OVJoint:
    """Nested value bases, and the moment that refitting W_o needs."""

    bases: OVBases
    heads: bool
    """Refit each head's output factor on its own moment first."""
    joint: bool
    """Refit W_o over all heads."""
    moments: LayerMoments

    @property
    def losses(self) -> torch.Tensor:
        """(h + 1,): loss when r = 0..h dimensions are kept, before any refit."""
        return self.bases.losses

    @property
    def energy(self) -> float:
        return self.bases.energy

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` dimensions per value head and W_o refitted; its bias too, where there is one."""
        cut = self.bases.apply(weights, rank)
        group = weights.heads // weights.kv_heads
        down_Hhr = self.bases.to_value_Khh[..., :rank].repeat_interleave(group, dim=0)
        start_HrD = cut.o_HrD
        if self.heads:
            share = damping(rank, self.moments.count)
            inner = down_Hhr.mT @ (self.moments.z_Hhh / self.moments.count)
            start_HrD = torch.stack(
                [
                    start + solve_damped(left @ down, left @ (output - down @ start), share)
                    for left, down, output, start in zip(
                        inner, down_Hhr, weights.o_HrD, cut.o_HrD, strict=True
                    )
                ]
            )
        if not self.joint:
            return replace(cut, o_HrD=start_HrD)
        return self._joint(weights, cut, down_Hhr, start_HrD)

    def _joint(
        self, weights: LayerWeights, cut: LayerWeights, down_Hhr: torch.Tensor, start_HrD: torch.Tensor
    ) -> LayerWeights:
        heads, size, rank = down_Hhr.shape
        bias, count = weights.o_bias_D, self.moments.count
        mean_Hh = self.moments.z_Z.view(heads, size) / count
        # (H r, H h): blockdiag(A)' Z'Z without the zeros of blockdiag(A).
        left = (down_Hhr.mT @ self.moments.z_ZZ.view(heads, size, -1)).flatten(0, 1).div_(count)
        mean_Hr = torch.einsum("hi,hir->hr", mean_Hh, down_Hhr)
        if bias is not None:
            left.addr_(mean_Hr.flatten(), mean_Hh.flatten(), alpha=-1)
        gram = (left.view(-1, heads, size).transpose(0, 1) @ down_Hhr).transpose(0, 1).flatten(1)
        missing = left @ (weights.o_HrD - down_Hhr @ start_HrD).flatten(0, 1)
        if bias is not None:
            silence_constants(gram, missing, gram.diagonal() + mean_Hr.flatten().square())
        share = damping(heads * rank, count)
        output = start_HrD + solve_damped(gram, missing, share).view(start_HrD.shape)
        if bias is not None:
            dense = mean_Hh.flatten() @ weights.o_HrD.flatten(0, 1)
            bias = bias + dense - torch.einsum("hr,hrd->d", mean_Hr, output)
        return replace(cut, o_HrD=output, o_bias_D=bias)


def solve_ov_joint(
    weights: LayerWeights, moments: LayerMoments, *, heads: bool, joint: bool
) -> OVBases | OVJoint:
    """Bases and refit for all ranks of one layer.

    Args:
        weights: the dense ones in float64.
        heads: pool the attention-weighted moments; where there is nothing to pool, or off, the bases are A3's.
    """
    group = weights.heads // weights.kv_heads
    pooled = heads and group > 1
    if not pooled and not joint:
        return solve_ov(weights, moments)
    source = moments.v_Khh if group > 1 else moments.z_Hhh
    if pooled:
        source = moments.z_Hhh.unflatten(0, (-1, group)).mean(1)
    # Damped, so that directions of which the tokens say little are not taken for silent ones.
    share = damping(source.shape[-1], moments.count)
    bases = ov_bases(weights, damped(source / moments.count, share))
    return OVJoint(bases, heads=pooled, joint=joint, moments=moments)
