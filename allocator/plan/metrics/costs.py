"""Costs of ranks, in exact integers: the one source for the program, the report and the check of written checkpoints.

Every metric (``plan.metrics``) is a constant plus a sum over components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import SUMMARY
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.precision import Form
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.registry import PLAIN
from allocator.plan.targets.target import Target

LARGEST_BATCH, LARGEST_CONTEXT = 10**6, 10**9
"""The largest cache that costs are told for."""


@dataclass(frozen=True)
class CostModel:
    """Costs of ranks for one geometry; latency on the machine that ``latency`` was measured on, the cache as ``target``
    allocates it.

    Raises:
        InvalidInput: the table is of another shape of model.
    """

    geometry: Geometry
    latency: LatencyTable | None = None
    target: Target = PLAIN
    _counts: Counts = field(init=False, repr=False, compare=False)
    _charged: dict[Any, tuple[int, ...]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.latency is not None:
            self.latency.check_fits(self.geometry)
        object.__setattr__(self, "_counts", Counts(self.geometry, self.latency, self.target))

    def cost_of(self, metric: Metric, component: Component, layer: int, rank: int, form: Form = None) -> int:
        """The cost of the layer's component at a rank, an exact integer in the metric's unit: all costs come from here.

        Args:
            form: bits that its weights are held in, or its latent; None: bits as the metric says, else the checkpoint's own
                type.
        """
        return metric.kind.cost(self._counts, metric, component, layer, rank, form)

    def shared(self, metric: Metric, layer: int, qk: tuple[int, Form], ov: tuple[int, Form]) -> int:
        """The cost of the layer's QK and OV together beyond what each costs by itself; 0 but for a target that pairs them.

        Args:
            qk, ov: rank and form.
        """
        if not self.target.paired:
            return 0
        sizes = self._counts.head_size(*qk), self._counts.head_size(*ov)
        return metric.kind.shared(self._counts, metric, layer, *sizes)

    def charges(
        self,
        metric: Metric,
        component: Component,
        layer: int,
        ranks: Sequence[int],
        forms: Sequence[Form] | None = None,
    ) -> tuple[int, ...]:
        """A program's charges for the ascending ``ranks``: their costs, or the most that a smaller one costs.

        A larger rank that happens to be stored in fewer bytes is charged too much and never too little; costs that rise with
        the rank, as all but those of four-bit weights do, are charged as they are.

        Args:
            forms: of each of ``ranks``; a rank is then compared with smaller ones in the same form, and with the first, so
                that the first is the least for every metric.
        """
        rank_forms = (None,) * len(ranks) if forms is None else tuple(forms)
        # Layers differ by their windows alone.
        key = metric, component, self.geometry.seen(layer, metric.context), tuple(ranks), rank_forms
        if key not in self._charged:
            most: dict[Form, int] = {}
            charges: list[int] = []
            for rank, form in zip(ranks, rank_forms, strict=True):
                cost = self.cost_of(metric, component, layer, rank, form)
                most[form] = max(cost, most.get(form, cost), *charges[:1])
                charges.append(most[form])
            self._charged[key] = tuple(charges)
        return self._charged[key]

    def constant(self, metric: Metric) -> int:
        """The part that no rank can change."""
        return metric.kind.constant(self._counts, metric)

    def total(self, metric: Metric, ranks: Ranks) -> int:
        """The metric for a whole model at these ranks."""
        alone = sum(
            self.cost_of(metric, c, layer, *ranks.at(layer, c))
            for c in COMPONENTS
            for layer in range(len(ranks.qk))
        )
        together = (
            self.shared(metric, layer, ranks.at(layer, "qk"), ranks.at(layer, "ov"))
            for layer in range(len(ranks.qk))
        )
        return self.constant(metric) + alone + sum(together)

    def dense(self, metric: Metric) -> int:
        """The dense model's metric, of which budgets are fractions: its measured time for latency."""
        measured = metric.kind.measured_dense(self._counts, metric)
        return self.total(metric, Ranks.dense(self.geometry)) if measured is None else measured

    def summary(self, ranks: Ranks, *, context: int = 2048) -> dict[str, int]:
        """The metrics that every report shows, FLOPs for a prefill of ``context`` tokens."""
        return {name: self.total(Metric(name, context=context), ranks) for name in SUMMARY}
