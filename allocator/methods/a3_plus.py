"""A3 with all steps of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocator.methods.a3 import A3
from allocator.methods.method import Method

if TYPE_CHECKING:
    from solvers.a3.compress import MLPSolution, OVSolution, QKSolution
    from solvers.a3.mlp import MLPOrder
    from solvers.a3.moments import LayerMoments
    from solvers.weights import LayerWeights


class A3Plus(Method):
    """A3 at its own shapes with every step of ``solvers.a3.steps``."""

    name = "a3+"
    version = "a3+/2"
    title = "A3 with the softmax's metric, compensated elimination, refits and error feedback"
    help = "with refits and error feedback"
    credit = A3.credit
    tag = A3.tag
    feedback = True
    beside_paper = True

    def solve_qk(self, dense: LayerWeights, moments: LayerMoments) -> QKSolution:
        from solvers.a3.compress import solve_qk_part
        from solvers.a3.steps import A3_PLUS

        return solve_qk_part(dense, moments, A3_PLUS)

    def solve_ov(self, dense: LayerWeights, moments: LayerMoments) -> OVSolution:
        from solvers.a3.ov_joint import solve_ov_joint

        return solve_ov_joint(dense, moments, heads=True, joint=True)

    def solve_mlp(self, dense: LayerWeights, moments: LayerMoments, order: MLPOrder | None) -> MLPSolution:
        from solvers.a3.mlp_elimination import solve_mlp_refit

        return solve_mlp_refit(dense, moments, order=True, refit=True, known=order)
