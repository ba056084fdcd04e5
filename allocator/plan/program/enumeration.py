"""Every plan below a loss, without a solver: exact, because costs move along few directions.

Groups whose costs follow a line are told by one number, what they use along it (``rays``). Where costs are staircases (bits
chosen beside ranks, four-bit weights, measured times) it is as many numbers as there are budgets (``staircases``). What remains
is to combine a handful of tables. All steps drop whatever the Lagrangian relaxation prices above the loss looked for
(``bound.Relaxation``), which leaves little.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocator.plan.program.bound import Choice, Instance, Relaxation
from allocator.plan.program.rays import Ray, RayTable, empty_table, line_of, ray_table
from allocator.plan.program.staircases import Staircase, StaircaseTable, staircase_table

MOST_STATES = 20_000_000
"""Combinations of sums that are looked at, about a second's worth; beyond it the program goes to HiGHS."""
_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Enumeration:
    """``complete``: no plan below the loss asked for was left out. ``choice`` is the best of them, None if there is none.
    ``states``: how many combinations were looked at.
    """

    complete: bool
    choice: Choice | None
    states: int


def kinds_of(instance: Instance) -> list[Ray | Staircase]:
    """Sort the groups by the direction in which their costs move; those that follow no line, by what they cost."""
    lines: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    stairs: dict[bytes, Staircase] = {}
    flat: list[int] = []
    lines_by_key: dict[bytes, tuple[tuple[int, ...], np.ndarray] | None] = {}
    for g, loss in enumerate(instance.losses_GO):
        count = int(np.isfinite(loss).sum())
        rise_BO = instance.costs_BGO[:, g, :count] - instance.costs_BGO[:, g, :1]
        # Most groups cost the same as some others.
        key = rise_BO.tobytes()
        if key not in lines_by_key:
            lines_by_key[key] = line_of(rise_BO)
        line = lines_by_key[key]
        if line is None:
            stairs.setdefault(key, Staircase([], rise_BO)).groups.append(g)
        elif not any(line[0]):
            flat.append(g)
        else:
            groups, steps = lines.setdefault(line[0], ([], []))
            groups.append(g)
            steps.append(line[1])
    rays: list[Ray | Staircase] = [*stairs.values()]
    for direction_key, (groups, steps) in lines.items():
        common = int(np.gcd.reduce(np.concatenate(steps)))
        rays.append(Ray(groups, np.array(direction_key) * common, [step // common for step in steps]))
    if flat:
        zero = np.zeros(len(instance.costs_BGO), dtype=np.int64)
        width = instance.losses_GO.shape[1]
        rays.append(Ray(flat, zero, [np.zeros(width, dtype=np.int64) for _ in flat]))
    return rays


def best_within(
    instance: Instance,
    kinds: Sequence[Ray | Staircase],
    relaxation: Relaxation,
    room_B: np.ndarray,
    reach: float,
    most_states: int = MOST_STATES,
    ends: float = math.inf,
) -> Enumeration:
    """The best plan whose loss is at most ``relaxation.bound + reach`` (nats), if there is one.

    Args:
        ends: when to give up, by ``time.monotonic``.
    """
    lines: list[RayTable] = []
    others: list[RayTable | StaircaseTable] = []
    states = 0
    for kind in kinds:
        if isinstance(kind, Ray):
            line = ray_table(instance, kind, relaxation, reach)
            if line is None:
                return Enumeration(False, None, states)
            lines.append(line)
        else:
            table, looked_at = staircase_table(kind, relaxation, reach, most_states - states, ends)
            states += looked_at
            if table is None:
                return Enumeration(False, None, states)
            others.append(table)
    lines.sort(key=lambda table: len(table.sums))
    last = lines.pop() if lines else empty_table(len(room_B))
    others = sorted([*others, *lines], key=lambda table: len(table.reduced))
    search = _Search(instance, others, last, relaxation, room_B, reach, most_states - states, ends)
    start = np.zeros((len(room_B), 1), dtype=np.int64)
    complete = search.descend(0, start, np.zeros(1), [])
    return Enumeration(complete, search.choice(), most_states - search.left)


class _Search:
    """All combinations of the tables' sums that fit and stay within reach, some hundred thousand at a time, depth first.

    Of the last table only the best sum that still fits is looked up. Every plan found lowers the reach.
    """

    def __init__(
        self,
        instance: Instance,
        others: Sequence[RayTable | StaircaseTable],
        last: RayTable,
        relaxation: Relaxation,
        room_B: np.ndarray,
        reach: float,
        most_states: int,
        ends: float,
    ) -> None:
        tables: list[RayTable | StaircaseTable] = [*others, last]
        self._tables, self._last = tables, last
        self._used = [table.used_BS for table in tables]
        self._relaxation = relaxation
        self._room_B = room_B - instance.used(relaxation.choice)
        self._prices_B = relaxation.lam_B / instance.scales_B
        self._reach = reach
        self.left = most_states
        self._ends = ends
        self._best: list[int] | None = None
        self._orders = [np.argsort(table.reduced, kind="stable") for table in tables]
        extremes = [(used_BS.min(axis=1), used_BS.max(axis=1)) for used_BS in self._used]
        zero = np.zeros_like(room_B)
        self._least = [sum((low for low, _ in extremes[i + 1 :]), zero) for i in range(len(tables))]
        self._most = [sum((high for _, high in extremes[i + 1 :]), zero) for i in range(len(tables))]
        # Plans are compared by loss: the reduced cost less the price of what is used.
        self._loss_S = last.reduced - float(self._prices_B @ last.ray.direction_B) * last.sums
        self._best_S = _first_least(self._loss_S)

    def descend(
        self, index: int, used_BN: np.ndarray, reduced_N: np.ndarray, spots: list[np.ndarray]
    ) -> bool:
        """Go through the tables from ``index`` on; False where more states came up than may, or time ran out."""
        if index == len(self._tables) - 1:
            self._finish(used_BN, reduced_N, spots)
            return True
        table, order = self._tables[index], self._orders[index]
        ascending = table.reduced[order]
        counts = np.searchsorted(ascending, self._reach - reduced_N, side="right")
        parts = np.cumsum(counts) // _AT_ONCE
        for part in range(int(parts[-1]) + 1 if len(parts) else 0):
            spots_here = np.flatnonzero(parts == part)
            if not len(spots_here):
                continue
            count = np.minimum(
                counts[spots_here],
                np.searchsorted(ascending, self._reach - reduced_N[spots_here], side="right"),
            )
            total = int(count.sum())
            self.left -= total
            if self.left < 0 or time.monotonic() > self._ends:
                return False
            parents = np.repeat(spots_here, count)
            spot = order[np.arange(total) - np.repeat(np.cumsum(count) - count, count)]
            used = used_BN[:, parents] + self._used[index][:, spot]
            reduced = reduced_N[parents] + table.reduced[spot]
            room = self._room_B[:, None] - used
            idle = np.maximum(room - self._most[index][:, None], 0)
            alive = (room >= self._least[index][:, None]).all(axis=0)
            alive &= reduced + self._prices_B @ idle <= self._reach
            columns = [*(column[parents[alive]] for column in spots), spot[alive]]
            if alive.any() and not self.descend(index + 1, used[:, alive], reduced[alive], columns):
                return False
        return True

    def _finish(self, used_BN: np.ndarray, reduced_N: np.ndarray, spots: list[np.ndarray]) -> None:
        last = self._last
        direction_B = last.ray.direction_B
        moving = direction_B > 0
        left_BN = self._room_B[:, None] - used_BN
        most_N = np.full(len(reduced_N), np.iinfo(np.int64).max)
        if moving.any():
            most_N = (left_BN[moving] // direction_B[moving][:, None]).min(axis=0)
        at_N = np.searchsorted(last.sums, most_N, side="right") - 1
        fits = (at_N >= 0) & (left_BN[~moving] >= 0).all(axis=0)
        above_N = reduced_N + self._prices_B @ left_BN + self._loss_S[self._best_S[np.maximum(at_N, 0)]]
        above_N = np.where(fits, above_N, np.inf)
        winner = int(above_N.argmin())
        if above_N[winner] > self._reach or (self._best is not None and above_N[winner] >= self._reach):
            return
        self._reach = float(above_N[winner])
        self._best = [*(int(column[winner]) for column in spots), int(self._best_S[at_N[winner]])]

    def choice(self) -> Choice | None:
        """The options of the best plan found."""
        if self._best is None:
            return None
        choice = list(self._relaxation.choice)
        for table, spot in zip(self._tables, self._best, strict=True):
            table.trace(spot, choice)
        return choice


def _first_least(values: np.ndarray) -> np.ndarray:
    """For every prefix the index of its least value, the first of equals."""
    lowest = np.minimum.accumulate(values)
    fresh = np.r_[True, values[1:] < lowest[:-1]]
    return np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))
