"""The work of an evaluation, stated for every model before the first begins, and that of a refinement. No torch.

The unit is one window of the calibration's length through one layer, or what takes as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from allocator.methods.registry import METHODS
from allocator.plan.model.geometry import Geometry
from allocator.profiling.work import head_layers

FEEDBACK_PASSES = 2.9
"""Passes of the fit windows through a layer whose projections are refitted, Gram sums and solves included: on SmolLM2-135M."""
SOLVING_PASSES = 1.5
"""The work of solving a layer, in passes of the fit windows through it: 0.9 on SmolLM2-135M, 2.9 on Gemma-3-270M."""


@dataclass(frozen=True)
class EvaluationWork:
    """The work of evaluating one model, each part in windows through one layer.

    ``states`` are the dense model's on the judged windows, ``body`` and ``heads`` of the comparison with it, the likelihood's
    ``text_body`` and ``text_head``; ``solving`` is that of a baseline.
    """

    states: float
    solving: float
    body: float
    heads: float
    text_body: float
    text_head: float

    @classmethod
    def of(
        cls, geometry: Geometry, *, judged: float, text: float, fit: float = 0, solver: str = ""
    ) -> EvaluationWork:
        """
        Args:
            judged: windows that it is compared with the dense model on; 0 for that model itself.
            text: the evaluation text's tokens, in windows of the calibration's length.
            fit: windows that its layers are fitted on, by ``solver``; 0 where it is read from a checkpoint.
        """
        layers, head = geometry.layers, head_layers(geometry)
        passes = SOLVING_PASSES + FEEDBACK_PASSES * bool(fit and METHODS[solver].feedback)
        return cls(
            states=judged * layers,
            solving=fit * layers * passes,
            body=judged * layers,
            heads=2 * judged * head,
            text_body=text * layers,
            text_head=text * head,
        )

    @property
    def total(self) -> int:
        return max(1, round(sum(vars(self).values())))


@dataclass(frozen=True)
class RefinementWork:
    """The work of a refinement that spends all of its ``evaluations`` and finds other ranks."""

    evaluations: int
    evaluation: int
    """Of the dense model and a plan's, side by side on the measure windows."""
    delivered: int
    """Of a plan as it will be delivered: solved, refitted and evaluated."""

    @classmethod
    def of(
        cls, geometry: Geometry, *, evaluations: int, judged: float, fit: float, solver: str
    ) -> RefinementWork:
        """
        Args:
            judged: windows that losses are measured on.
            fit: windows that layers are fitted on, by ``solver``.
        """
        return cls(
            evaluations,
            EvaluationWork.of(geometry, judged=judged, text=0).total,
            EvaluationWork.of(geometry, judged=judged, text=0, fit=fit, solver=solver).total,
        )

    @property
    def search(self) -> int:
        return self.evaluations * self.evaluation

    @property
    def total(self) -> int:
        return self.search + 2 * self.delivered
