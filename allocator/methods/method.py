"""Solution methods: one object each, which stages, requests, options, forms, reports and docs are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from allocator.plan.model.geometry import Geometry
from allocator.plan.model.precision import JOINT, LATENT, Latent

if TYPE_CHECKING:
    from solvers.a3.compress import LayerSolution, MLPSolution, OVSolution, QKSolution
    from solvers.a3.mlp import MLPOrder
    from solvers.a3.moments import LayerMoments
    from solvers.a3.ov_latent import OVLatent
    from solvers.a3.queries import QueryLatent
    from solvers.weights import LayerWeights


class Method(ABC):
    """Solves QK, OV and MLP of a layer, each for all ranks at once.

    A new one is a file beside this one and a line in the package's registry. It imports solvers and torch inside its functions,
    so that everybody may list methods.
    """

    name: ClassVar[str]
    """As requests give it, and profiles, plans and reports say it."""
    version: ClassVar[str]
    """Part of every content key of what is solved or measured with it: change it whenever results may change."""
    title: ClassVar[str]
    """In the table of the reference."""
    help: ClassVar[str]
    """What it is, in a few words, for options."""
    credit: ClassVar[str]
    """In model cards: where it comes from, in Markdown."""
    tag: ClassVar[str]
    """The tag of model cards."""
    calibrated: ClassVar[bool] = True
    """Whether it solves on second moments of the calibration text; else on those of ``moments_of``."""
    feedback: ClassVar[bool] = False
    """Whether finished layers are refitted toward the dense residual stream (``solvers.a3.feedback``)."""
    beside_paper: ClassVar[bool] = False
    """Whether A3's solution is set beside it: component by component on held-out windows, where the better one is taken
    (``solvers.a3.solved``), and as a uniform model in reports.
    """

    latents: ClassVar[tuple[Latent, ...]] = ()
    """The parts (queries, values) that it may make of one latent for all heads, where that pays."""

    def latent_ranks(self, geometry: Geometry) -> dict[Latent, list[int]]:
        """Ranks at which this method may do so in such a model, ascending; of those that have some."""
        return {form: ranks for form in self.latents if (ranks := geometry.latent_ranks(form))}

    def moments_of(self, weights: LayerWeights) -> LayerMoments:
        """The moments that a method which is not calibrated solves on, made of the dense weights."""
        raise NotImplementedError(f"{self.name} solves on moments of the calibration text")

    @abstractmethod
    def solve_qk(self, dense: LayerWeights, moments: LayerMoments) -> QKSolution:
        """Queries and keys for all ranks. ``dense``: the layer's weights in float64."""

    @abstractmethod
    def solve_ov(self, dense: LayerWeights, moments: LayerMoments) -> OVSolution:
        """Values and output projection for all ranks."""

    def solve_joint(self, dense: LayerWeights, moments: LayerMoments) -> OVLatent | None:
        """OV as one latent of all value heads, for all ranks; None where the method or the layer has none."""
        from solvers.a3.ov_latent import solve_ov_latent

        return solve_ov_latent(dense, moments) if JOINT in self.latents else None

    def solve_latent(self, dense: LayerWeights, moments: LayerMoments) -> QueryLatent | None:
        """QK with queries made of one latent, for all ranks; None where the method has none."""
        from solvers.a3.queries import solve_queries

        return solve_queries(dense, moments) if LATENT in self.latents else None

    @abstractmethod
    def solve_mlp(self, dense: LayerWeights, moments: LayerMoments, order: MLPOrder | None) -> MLPSolution:
        """The MLP for all ranks; ``order``: of its neurons, as this method found it before."""

    def solve(
        self, weights: LayerWeights, moments: LayerMoments, *, order: MLPOrder | None = None
    ) -> LayerSolution:
        """A layer's three components for all ranks (a ``solvers.a3.compress.Solve``)."""
        from solvers.a3.compress import LayerSolution, in_float64

        dense = in_float64(weights)
        return LayerSolution(
            dense=dense,
            qk=self.solve_qk(dense, moments),
            ov=self.solve_ov(dense, moments),
            mlp=self.solve_mlp(dense, moments, order),
            joint=self.solve_joint(dense, moments),
            latent=self.solve_latent(dense, moments),
        )
