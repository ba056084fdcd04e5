"""From moments to solutions of a layer, and from ranks to compressed weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from solvers.a3.mlp import MLPOrder
from solvers.a3.mlp_elimination import MLPRefit, solve_mlp_refit
from solvers.a3.moments import LayerMoments
from solvers.a3.ov import OVBases
from solvers.a3.ov_joint import OVJoint, solve_ov_joint
from solvers.a3.ov_latent import OVLatent
from solvers.a3.qk import QKBases, QKPairs
from solvers.a3.qk_gains import QKGains, solve_qk_steps
from solvers.a3.qk_partial import QKPartial, solve_qk_partial
from solvers.a3.queries import QueryLatent
from solvers.a3.steps import A3, Steps
from solvers.weights import LayerWeights

Component = Literal["qk", "ov", "mlp"]
Part = Component | Literal["joint", "latent"]
"""A part whose losses are predicted: a component, OV as one latent of all value heads, or QK with queries made of a latent."""
QKSolution = QKBases | QKPairs | QKGains | QKPartial
OVSolution = OVBases | OVJoint
MLPSolution = MLPOrder | MLPRefit
_SELECTED = ("up_Dm", "gate_Dm")
"""Half of a layer, of which neurons are kept as they are: no number is computed from it, so it stays in its own type."""


@dataclass(frozen=True)
class LayerSolution:
    """Solutions of a layer's three components for all ranks, and the dense weights they apply to."""

    dense: LayerWeights
    """In float64, but for what is only selected from."""
    qk: QKSolution
    ov: OVSolution
    mlp: MLPSolution
    joint: OVLatent | None = None
    """OV as one latent of all value heads, where the method has that."""
    latent: QueryLatent | None = None
    """QK with queries made of a latent, where the method has that."""

    def losses(self, component: Component) -> torch.Tensor:
        """Analytic loss at every rank 0..full, float64, in the component's own unit (see its module)."""
        # Rounding can leave the tail a hair below zero; a loss is never negative and never rises with the rank's energy.
        return getattr(self, component).losses.clamp_min(0)

    def compressed(
        self,
        *,
        qk: int | None = None,
        ov: int | None = None,
        mlp: int | None = None,
        joint: int | None = None,
        latent: int | None = None,
    ) -> LayerWeights:
        """The layer at these ranks; ``None`` or the full rank leaves a component's original tensors as they are.

        Args:
            joint: the rank of OV as one latent of all value heads, in the place of ``ov``.
            latent: the rank of queries made of a latent, in the place of ``qk``.
        """
        weights = self.dense
        if qk is not None and qk < self.dense.qk_rank:
            weights = self.qk.apply(weights, qk)
        if ov is not None and ov < self.dense.ov_rank:
            weights = self.ov.apply(weights, ov)
        if joint is not None:
            assert self.joint is not None, "only methods with joint values plan any"
            weights = self.joint.apply(weights, joint)
        if latent is not None:
            assert self.latent is not None, "only methods with latent queries plan any"
            weights = self.latent.apply(weights, latent)
        if mlp is not None and mlp < self.dense.mlp_rank:
            weights = self.mlp.apply(weights, mlp)
        return weights


class Solve(Protocol):
    """Solves one layer for all ranks; ``order``: of the neurons, as the same function found it before."""

    def __call__(
        self, weights: LayerWeights, moments: LayerMoments, *, order: MLPOrder | None = None
    ) -> LayerSolution: ...


def in_float64(weights: LayerWeights) -> LayerWeights:
    """The dense weights that solvers compute from; what is only selected from stays in its own type."""
    doubled = {
        name: tensor.double()
        for name, tensor in weights.tensors().items()
        if tensor.is_floating_point() and name not in _SELECTED
    }
    return replace(weights, **doubled)


def solve_qk_part(dense: LayerWeights, moments: LayerMoments, steps: Steps) -> QKSolution:
    """Queries and keys of one layer, some or all of whose dimensions are rotated, or none."""
    partly = dense.pairs is not None and 2 * dense.pairs.shape[1] < dense.qk_rank
    return solve_qk_partial(dense, moments, steps) if partly else solve_qk_steps(moments, steps)


def solve_layer(
    weights: LayerWeights, moments: LayerMoments, steps: Steps = A3, *, order: MLPOrder | None = None
) -> LayerSolution:
    """One layer, all ranks at once, in float64: A3 (arXiv 2505.12942v4), improved by whichever ``steps`` are on.

    Args:
        order: of the neurons, as these steps found it before: eliminating is most of the work.
    """
    dense = in_float64(weights)
    return LayerSolution(
        dense=dense,
        qk=solve_qk_part(dense, moments, steps),
        ov=solve_ov_joint(dense, moments, heads=steps.ov_heads, joint=steps.ov_refit),
        mlp=solve_mlp_refit(dense, moments, order=steps.mlp_order, refit=steps.mlp_refit, known=order),
    )
