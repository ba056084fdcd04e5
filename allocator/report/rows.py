"""The models that reports and plans set side by side, one entry for each: tables, pages, pictures and cards name them by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from allocator.plan.baselines import UNIFORM_BITS, UNIFORM_KIND, UNIFORM_RATIO
from allocator.plan.documents.plan import Baseline, Plan

DENSE, PLAN, HEALED = "dense", "plan", "healed"
UNIFORM_PAPER = "uniform_a3"
"""The ranks of ``uniform``, by the paper's method."""


@dataclass(frozen=True)
class Row:
    """A model beside others at the same budgets."""

    name: str
    """Its key in a report, or in a plan's ``baseline``."""
    title: str
    short: str
    """In the head of a narrow table."""
    help: str
    """What it is, in the words that follow its title and a colon."""
    ours: bool = False
    """Whether it is the plan's, not something to compare it with."""


ROWS = {
    row.name: row
    for row in (
        Row(DENSE, "dense", "dense", "the model as it came"),
        Row(UNIFORM_PAPER, "uniform A3", "uniform A3", "the uniform ranks, by the paper's solver"),
        Row(UNIFORM_RATIO, "uniform ranks", "uniform", "one ratio everywhere, same solver"),
        Row(
            UNIFORM_KIND,
            "uniform per kind",
            "per kind",
            "the best pair of ratios for attention and MLP",
        ),
        Row(
            UNIFORM_BITS,
            "uniform ranks and bits",
            "uniform bits",
            "the best pair of one ratio and one number of bits",
        ),
        Row(PLAN, "mixed plan", "mixed plan", "the plan's ranks, in closed form", ours=True),
        Row(HEALED, "mixed plan, healed", "healed", "the plan's ranks after distillation", ours=True),
    )
}
"""By name, in the order in which they are listed everywhere."""


def baselines(plan: Plan) -> Iterator[tuple[Row, Baseline]]:
    """The models that a plan is compared with under the same budgets, in order."""
    return ((row, plan.baseline[name]) for name, row in ROWS.items() if name in plan.baseline)
