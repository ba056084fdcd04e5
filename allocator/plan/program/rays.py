"""Groups whose costs move along a line: what several of them can use together, and the least reduced cost of each use.

A component's cost is its rank times a vector (one entry per budget) that it shares with all components of its kind. So what
they use together is one number, the sum of their ranks, and the least loss for every sum comes from a dynamic program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allocator.plan.program.bound import Choice, Instance, Relaxation

_WIDEST_TABLE = 1 << 18


@dataclass(frozen=True)
class Ray:
    """Groups whose options cost their first one plus ``steps[i][o]`` times ``direction_B``, in exact integers."""

    groups: list[int]
    direction_B: np.ndarray
    steps: list[np.ndarray]


@dataclass(frozen=True)
class RayTable:
    """For sums of steps (from the relaxation's choice, ascending) the least reduced cost, and how it is reached."""

    ray: Ray
    sums: np.ndarray
    reduced: np.ndarray
    picks: list[tuple[int, np.ndarray | None]]
    """Per group: the first sum and, for it and all following ones, the option that reaches it (-1: none); None: no choice."""
    base: list[int]

    @property
    def used_BS(self) -> np.ndarray:
        """Uses of every budget by each sum, from the relaxation's choice."""
        return self.ray.direction_B[:, None] * self.sums

    def trace(self, spot: int, choice: Choice) -> None:
        """Write the options that reach the sum at ``spot`` into ``choice``."""
        _trace(self, int(self.sums[spot]), choice)


def line_of(rise_BO: np.ndarray) -> tuple[tuple[int, ...], np.ndarray] | None:
    """The direction in which costs rise, without a common factor (zeros: they do not), and how far; None: along no line."""
    last = rise_BO[:, -1]
    common = math.gcd(*map(int, last))
    if common == 0:
        return None if rise_BO.any() else (tuple(map(int, last)), np.zeros(rise_BO.shape[1], dtype=np.int64))
    direction = last // common
    lead = int(np.argmax(direction))
    step = rise_BO[lead] // direction[lead]
    if (direction[:, None] * step != rise_BO).any():
        return None
    return tuple(map(int, direction)), step


def empty_table(budgets: int) -> RayTable:
    """The line table of no group."""
    ray = Ray([], np.zeros(budgets, dtype=np.int64), [])
    return RayTable(ray, np.zeros(1, dtype=np.int64), np.zeros(1), [], [])


def ray_table(instance: Instance, ray: Ray, relaxation: Relaxation, reach: float) -> RayTable | None:
    """Dynamic program over the ray's groups; sums dearer than ``reach`` are dropped. None where it grows too wide."""
    low, value = 0, np.zeros(1)
    picks: list[tuple[int, np.ndarray | None]] = []
    base = [relaxation.choice[g] for g in ray.groups]
    within_GO = relaxation.reduced_GO[ray.groups] <= reach
    open_G = within_GO.sum(axis=1) > 1
    for g, step, start, within, still_open in zip(
        ray.groups, ray.steps, base, within_GO, open_G.tolist(), strict=True
    ):
        if not still_open:
            picks.append((low, None))
            continue
        reduced = relaxation.reduced_GO[g]
        options = within.nonzero()[0]
        shifts = step[options] - step[start]
        first = int(shifts.min())
        width = len(value) + int(shifts.max()) - first
        if width > _WIDEST_TABLE:
            return None
        wider, pick = np.full(width, np.inf), np.full(width, -1, dtype=np.int16)
        for option, shift in zip(options, shifts - first, strict=True):
            part = wider[shift : shift + len(value)]
            candidate = value + reduced[option]
            better = candidate < part
            part[better] = candidate[better]
            pick[shift : shift + len(value)][better] = option
        alive = np.flatnonzero(wider <= reach)
        begin, end = int(alive[0]), int(alive[-1]) + 1
        low += first + begin
        value = wider[begin:end]
        value[value > reach] = np.inf
        picks.append((low, pick[begin:end]))
    spots = np.flatnonzero(np.isfinite(value))
    return RayTable(ray, spots + low, value[spots], picks, base)


def _trace(table: RayTable, total: int, choice: Choice) -> None:
    """Write the options that reach the sum ``total`` into ``choice``."""
    ray = table.ray
    for i in reversed(range(len(ray.groups))):
        low, pick = table.picks[i]
        if pick is None:
            choice[ray.groups[i]] = table.base[i]
            continue
        option = int(pick[total - low])
        choice[ray.groups[i]] = option
        total -= int(ray.steps[i][option] - ray.steps[i][table.base[i]])
