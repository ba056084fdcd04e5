"""What a rank costs: the sum of staircases nearest to the measured times, by least squares that let no step fall."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from allocator.costs import Ranks
from allocator.geometry import COMPONENTS, Component

_LEAST_SPREAD = 0.005
"""Relative: no time is trusted to more than this, however quiet the machine was."""


@dataclass(frozen=True)
class Staircase:
    """``constant`` and, for each component, its time above the smallest measured rank in one layer, at each measured rank."""

    ranks: Mapping[Component, Sequence[int]]
    constant: float
    heights: Mapping[Component, Sequence[float]]

    def of(self, ranks: Ranks, depth: int) -> float:
        """The time of a model's first ``depth`` layers at these ranks."""
        steps = (
            self.heights[c][_spot(self.ranks[c], rank)] for c in COMPONENTS for rank in ranks.of(c)[:depth]
        )
        return self.constant + sum(steps)


def fit(
    measured: Mapping[Component, Sequence[int]],
    models: Sequence[Ranks],
    times: Sequence[float],
    spreads: Sequence[float],
    depth: int,
) -> Staircase:
    """Solve min over c, x >= 0 of Σ_m ((c + Σ_steps n_{m,s} x_s - t_m) / σ_m)², the additive isotonic regression of t.

    n_{m,s} counts the components of model m's ``depth`` layers that stand on step s or above, so the staircases x add up
    from the smallest rank and never fall (Lawson and Hanson's NNLS does the rest). A maximum over noisy times, which also
    never falls, would be too high by the noise.

    Args:
        measured: ascending ranks of each component, its steps.
        models, times, spreads: (M,) ranks, times relative to the dense model, and their quartile distances.
    """
    columns = [(c, step) for c in COMPONENTS for step in range(1, len(measured[c]))]

    def row(ranks: Ranks) -> list[float]:
        spots = {c: [_spot(measured[c], rank) for rank in ranks.of(c)[:depth]] for c in COMPONENTS}
        return [1.0, *(float(sum(spot >= step for spot in spots[c])) for c, step in columns)]

    weights = 1 / np.maximum(np.asarray(spreads), _LEAST_SPREAD)
    matrix = np.array([row(ranks) for ranks in models])
    found, _ = nnls(matrix * weights[:, None], np.asarray(times) * weights)
    heights = {c: [0.0] for c in COMPONENTS}
    for (c, _), step in zip(columns, found[1:], strict=True):
        heights[c].append(heights[c][-1] + float(step))
    return Staircase(measured, float(found[0]), heights)


def _spot(measured: Sequence[int], rank: int) -> int:
    """The step that a rank stands on: the next measured rank."""
    return min(bisect_left(measured, rank), len(measured) - 1)
