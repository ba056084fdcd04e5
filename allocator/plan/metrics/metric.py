"""A metric with its options, as budgets name it."""

from __future__ import annotations

from dataclasses import dataclass

from allocator.plan.metrics.kind import Kind, Options
from allocator.plan.metrics.registry import METRICS


@dataclass(frozen=True)
class Metric(Options):
    """``Metric("memory", batch=8, context=131072)``."""

    name: str

    @property
    def kind(self) -> Kind:
        return METRICS[self.name]

    @property
    def unit(self) -> str:
        return self.kind.unit

    @property
    def label(self) -> str:
        """The metric as it is written in a budget."""
        values = {option: getattr(self, option) for option in self.kind.options}
        text = ",".join(f"{option}={value}" for option, value in values.items() if value is not None)
        return f"{self.name}@{text}" if text else self.name
