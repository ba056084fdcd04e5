"""Every plan below a loss, without a solver: exact, because costs move along few directions.

A component's cost is its rank times a vector (one entry per budget) that it shares with all components of its kind. So what
a set of such components uses together is one number, the sum of their ranks, and the least loss for every sum comes from a
dynamic program. What remains is to combine a handful of tables. Both steps drop whatever the Lagrangian relaxation prices
above the loss looked for (``bound.Relaxation``), which leaves little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allocator.bound import Choice, Instance, Relaxation

MOST_STATES = 1_000_000
"""Combinations of sums held at once; beyond it the question goes to a solver."""
_WIDEST_TABLE = 1 << 18


@dataclass(frozen=True)
class Ray:
    """Groups whose options cost their first one plus ``steps[i][o]`` times ``direction_B``, in exact integers."""

    groups: list[int]
    direction_B: np.ndarray
    steps: list[np.ndarray]


@dataclass(frozen=True)
class Table:
    """For sums of steps (from the relaxation's choice, ascending) the least reduced cost, and how it is reached."""

    ray: Ray
    sums: np.ndarray
    reduced: np.ndarray
    picks: list[tuple[int, np.ndarray]]
    """Per group: the first sum and, for it and all following ones, the option that reaches it (255 and more: none)."""
    base: list[int]


@dataclass(frozen=True)
class Found:
    """``complete``: no plan below the loss asked for was left out. ``choice`` is the best of them, None if there is none."""

    complete: bool
    choice: Choice | None


def rays_of(instance: Instance) -> list[Ray]:
    """Group the groups by the direction in which their costs move; one that turns is alone with a ray per option step.

    Returns an empty list where some group's costs follow no line: nothing here then applies.
    """
    found: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    still: list[int] = []
    for g, loss in enumerate(instance.losses_GO):
        count = int(np.isfinite(loss).sum())
        rise_BO = instance.costs_BGO[:, g, :count] - instance.costs_BGO[:, g, :1]
        last = rise_BO[:, -1]
        common = math.gcd(*map(int, last))
        if common == 0:
            if rise_BO.any():
                return []
            still.append(g)
            continue
        direction = last // common
        lead = int(np.argmax(direction))
        step = rise_BO[lead] // direction[lead]
        if (direction[:, None] * step != rise_BO).any():
            return []
        groups, steps = found.setdefault(tuple(map(int, direction)), ([], []))
        groups.append(g)
        steps.append(step)
    rays = []
    for direction_key, (groups, steps) in found.items():
        common = math.gcd(*(int(value) for step in steps for value in step))
        rays.append(Ray(groups, np.array(direction_key) * common, [step // common for step in steps]))
    if still:
        zero = np.zeros(len(instance.costs_BGO), dtype=np.int64)
        width = instance.losses_GO.shape[1]
        rays.append(Ray(still, zero, [np.zeros(width, dtype=np.int64) for _ in still]))
    return rays


def best_within(
    instance: Instance,
    rays: list[Ray],
    relaxation: Relaxation,
    room_B: np.ndarray,
    reach: float,
    most_states: int = MOST_STATES,
) -> Found:
    """The best plan whose loss is at most ``relaxation.bound + reach`` (nats), if there is one."""
    tables = []
    for ray in rays:
        table = _table(instance, ray, relaxation, reach)
        if table is None:
            return Found(False, None)
        tables.append(table)
    tables.sort(key=lambda table: len(table.sums))
    return _combined(instance, tables, relaxation, room_B, reach, most_states)


def _table(instance: Instance, ray: Ray, relaxation: Relaxation, reach: float) -> Table | None:
    """Dynamic program over the ray's groups; sums dearer than ``reach`` are dropped. None where it grows too wide."""
    low, value = 0, np.zeros(1)
    picks, base = [], []
    for g, step in zip(ray.groups, ray.steps, strict=True):
        start = relaxation.choice[g]
        base.append(start)
        reduced = relaxation.reduced_GO[g, : len(step)]
        kept = np.flatnonzero(reduced <= reach)
        shifts = step[kept] - step[start]
        first = int(shifts.min())
        width = len(value) + int(shifts.max()) - first
        if width > _WIDEST_TABLE:
            return None
        wider, pick = np.full(width, np.inf), np.full(width, -1, dtype=np.int16)
        for option, shift in zip(kept, shifts - first, strict=True):
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
    return Table(ray, spots + low, value[spots], picks, base)


def _combined(
    instance: Instance,
    tables: list[Table],
    relaxation: Relaxation,
    room_B: np.ndarray,
    reach: float,
    most_states: int,
) -> Found:
    """All combinations of the tables' sums that fit and stay within reach; of the last table the best sum that fits."""
    room_B = room_B - instance.used(relaxation.choice)
    prices_B = relaxation.lam_B / instance.scales_B
    used_BN, reduced_N = np.zeros((len(room_B), 1), dtype=np.int64), np.zeros(1)
    spots: list[np.ndarray] = []
    for index, table in enumerate(tables[:-1]):
        order = np.argsort(table.reduced, kind="stable")
        counts = np.searchsorted(table.reduced[order], reach - reduced_N, side="right")
        total = int(counts.sum())
        if total > most_states:
            return Found(False, None)
        parents = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        spot = order[nth]
        used_BN = used_BN[:, parents] + table.ray.direction_B[:, None] * table.sums[spot]
        reduced_N = reduced_N[parents] + table.reduced[spot]
        rest = tables[index + 1 :]
        least_B = sum(other.ray.direction_B * int(other.sums.min()) for other in rest)
        most_B = sum(other.ray.direction_B * int(other.sums.max()) for other in rest)
        idle_BN = np.maximum(room_B[:, None] - used_BN - np.asarray(most_B)[:, None], 0)
        alive = (used_BN + np.asarray(least_B)[:, None] <= room_B[:, None]).all(axis=0)
        alive &= reduced_N + prices_B @ idle_BN <= reach
        used_BN, reduced_N = used_BN[:, alive], reduced_N[alive]
        spots = [column[parents[alive]] for column in spots]
        spots.append(spot[alive])
    if not len(reduced_N):
        return Found(True, None)
    last = tables[-1]
    direction_B = last.ray.direction_B
    moving = direction_B > 0
    left_BN = room_B[:, None] - used_BN
    # Plans are compared by loss: the reduced cost less the price of what is used.
    loss_S = last.reduced - float(prices_B @ direction_B) * last.sums
    best_S = _first_least(loss_S)
    most_N = np.full(len(reduced_N), np.iinfo(np.int64).max)
    if moving.any():
        most_N = (left_BN[moving] // direction_B[moving][:, None]).min(axis=0)
    at_N = np.searchsorted(last.sums, most_N, side="right") - 1
    fits = (at_N >= 0) & (left_BN[~moving] >= 0).all(axis=0)
    loss_N = np.where(fits, reduced_N - prices_B @ used_BN + loss_S[best_S[np.maximum(at_N, 0)]], np.inf)
    winner = int(loss_N.argmin())
    above = loss_N[winner] + float(prices_B @ room_B)
    if not above <= reach:
        return Found(True, None)
    chosen = [*(int(column[winner]) for column in spots), int(best_S[at_N[winner]])]
    choice = list(relaxation.choice)
    for table, spot_of in zip(tables, chosen, strict=True):
        _trace(table, int(table.sums[spot_of]), choice)
    return Found(True, choice)


def _first_least(values: np.ndarray) -> np.ndarray:
    """For every prefix the index of its least value, the first of equals."""
    lowest = np.minimum.accumulate(values)
    fresh = np.r_[True, values[1:] < lowest[:-1]]
    return np.maximum.accumulate(np.where(fresh, np.arange(len(values)), 0))


def _trace(table: Table, total: int, choice: Choice) -> None:
    """Write the options that reach the sum ``total`` into ``choice``."""
    ray = table.ray
    for i in reversed(range(len(ray.groups))):
        low, pick = table.picks[i]
        option = int(pick[total - low])
        choice[ray.groups[i]] = option
        total -= int(ray.steps[i][option] - ray.steps[i][table.base[i]])
