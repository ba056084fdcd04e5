"""The paper's own solutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allocator.methods.method import Method

if TYPE_CHECKING:
    from solvers.a3.compress import MLPSolution, OVSolution, QKSolution
    from solvers.a3.mlp import MLPOrder
    from solvers.a3.moments import LayerMoments
    from solvers.weights import LayerWeights


class A3(Method):
    """A3 (arXiv 2505.12942v4), in head space: ``docs/explanation/a3-math.md``."""

    name = "a3"
    version = "a3/2"
    title = "A3, the paper's closed forms"
    help = "the paper's, in head space"
    credit = "[A3](https://arxiv.org/abs/2505.12942) in closed form"
    tag = "a3"

    def solve_qk(self, dense: LayerWeights, moments: LayerMoments) -> QKSolution:
        from solvers.a3.compress import solve_qk_part
        from solvers.a3.steps import A3

        return solve_qk_part(dense, moments, A3)

    def solve_ov(self, dense: LayerWeights, moments: LayerMoments) -> OVSolution:
        from solvers.a3.ov import solve_ov

        return solve_ov(dense, moments)

    def solve_mlp(self, dense: LayerWeights, moments: LayerMoments, order: MLPOrder | None) -> MLPSolution:
        from solvers.a3.mlp import solve_mlp

        return order or solve_mlp(dense, moments)
