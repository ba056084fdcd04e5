"""The times of ranks: staircases from models in which one component moves around a middle."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.ranks import Ranks
from allocator.profiling.timing.design import SMALLEST, Design, ModelName


@dataclass(frozen=True)
class TimeStaircase:
    """``constant`` and, for each component, its time above the smallest measured rank in one layer, at each measured rank."""

    ranks: Mapping[Component, Sequence[int]]
    constant: float
    heights: Mapping[Component, Sequence[float]]

    def of(self, ranks: Ranks, depth: int) -> float:
        """The time of a model's first ``depth`` layers at these ranks; a rank takes the time of the next measured one."""
        return self.constant + sum(
            self.heights[c][min(bisect_left(self.ranks[c], rank), len(self.ranks[c]) - 1)]
            for c in COMPONENTS
            for rank in ranks.of(c)[:depth]
        )


def time_staircase(design: Design, time_of: Callable[[ModelName], float], depth: int) -> TimeStaircase:
    """Each component's measured differences, divided by the layers; all parts added to the model in the middle.

    Where noise says that a smaller rank is slower, the larger one is charged as much. That errs to the slow side, which is
    wanted: a program picks what looks cheap, so unbiased steps make plans that miss their limit (decision 20).
    """
    heights: dict[Component, list[float]] = {}
    for c in COMPONENTS:
        floor, floors = 0.0, []
        for rank in design.ranks[c]:
            floor = max(floor, time_of((c, rank)))
            floors.append(floor)
        heights[c] = [(height - floors[0]) / depth for height in floors]
    parts = TimeStaircase(design.ranks, 0.0, heights)
    constant = time_of(design.center) - parts.of(design.models[design.center], depth)
    # Where parts add up to more than the center's time, the smallest ranks are still not promised less than theirs.
    return TimeStaircase(design.ranks, max(constant, time_of(SMALLEST)), heights)
