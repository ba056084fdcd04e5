"""Truncated SVD of the weights alone: the baseline that looks at no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocator.methods.a3 import A3

if TYPE_CHECKING:
    import torch

    from solvers.a3.compress import MLPSolution
    from solvers.a3.mlp import MLPOrder
    from solvers.a3.moments import LayerMoments
    from solvers.weights import LayerWeights


class SVD(A3):
    """A3 where every input is white: all directions equally strong, all rotary angles equally frequent.

    With E[x'x] = I the moment of queries is W_q'W_q, so Thm 3.2 of A3 becomes the truncated SVD of W_q W_k', Thm 3.3 that of
    W_v W_o (of a group's outputs side by side, where queries are grouped). A bias is one more row of its matrix. Averaged over
    all angles, a rotary pair's share in the scores is ½ ‖W_q,pair‖² ‖W_k,pair‖². Neurons stay by the product of their matrices'
    squared norms.
    """

    name = "svd"
    version = "svd/1"
    title = "truncated SVD of the weights, neurons by magnitude: a baseline without calibration statistics"
    help = "of the weights alone, a baseline"
    credit = "truncated SVD of the weights, neurons by magnitude"
    tag = "svd"
    calibrated = False

    def moments_of(self, weights: LayerWeights) -> LayerMoments:
        import torch

        from solvers.a3.moments import LayerMoments

        turned = 0 if weights.pairs is None else 2 * weights.pairs.shape[1]
        group = weights.heads // weights.kv_heads
        queries = _at_all_angles(_moment(weights.q_DHr, weights.q_bias_Hr), turned)
        keys = _at_all_angles(_moment(weights.k_DKr, weights.k_bias_Kr), turned)
        values = _moment(weights.v_DKr, weights.v_bias_Kr)
        attended = torch.block_diag(*values.repeat_interleave(group, dim=0))
        nothing = values.new_zeros(0)
        return LayerMoments(
            count=1,
            q_Hhh=queries,
            k_Khh=keys,
            v_Khh=values,
            z_ZZ=attended,
            z_Z=values.new_zeros(len(attended)),
            mlp_mm=nothing[None, :],
            mlp_m=nothing,
            q_rotated_Khh=queries.unflatten(0, (weights.kv_heads, group)).sum(1) if turned else None,
            k_rotated_Khh=keys if turned else None,
        )

    def solve_mlp(self, dense: LayerWeights, moments: LayerMoments, order: MLPOrder | None) -> MLPSolution:
        from solvers.a3.linalg import tail_sums
        from solvers.a3.mlp import MLPOrder

        energies_m = dense.down_mD.square().sum(1)
        for matrix_Dm, bias_m in ((dense.up_Dm, dense.up_bias_m), (dense.gate_Dm, dense.gate_bias_m)):
            if matrix_Dm is not None:
                squared = matrix_Dm.double().square().sum(0)
                energies_m = energies_m * (squared if bias_m is None else squared + bias_m.double().square())
        order_m = energies_m.argsort(descending=True, stable=True)
        losses = tail_sums(energies_m[order_m])
        return MLPOrder(losses=losses, energy=float(losses[0]), order_m=order_m)


def _moment(matrix_Dnh: torch.Tensor, bias_nh: torch.Tensor | None) -> torch.Tensor:
    """(n, h, h): second moment of x W + b for white x, in float64."""
    rows_nhD = matrix_Dnh.double().permute(1, 2, 0)
    moment = rows_nhD @ rows_nhD.mT
    if bias_nh is not None:
        moment += bias_nh.double()[:, :, None] * bias_nh.double()[:, None, :]
    return moment


def _at_all_angles(moment_nhh: torch.Tensor, turned: int) -> torch.Tensor:
    """The mean of a moment whose first dimensions, pairs of a first and a second half, are rotated by all angles."""
    mean = moment_nhh.clone()
    mean[:, :turned] = 0
    mean[:, :, :turned] = 0
    energies = moment_nhh.diagonal(dim1=1, dim2=2)[:, :turned].unflatten(1, (2, -1)).mean(1)
    mean.diagonal(dim1=1, dim2=2)[:, :turned] = energies.repeat(1, 2)
    return mean
