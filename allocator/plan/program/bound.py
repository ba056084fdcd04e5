"""Our own lower bound, and a good plan to start from, by Lagrangian relaxation.

For multipliers λ >= 0 the value  Σ_groups min_option (loss + λ·cost) − λ·room  is a lower bound on every feasible plan
(weak duality), whichever λ is used. The multipliers come from Kelley's cutting planes; the bound itself is summed here in
float64, so it does not rest on any solver's word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog

Choice = list[int]
_MOST_CUTS = 400
_MOST_ROUNDS = 150
_CONVERGED = 1e-7
_ROUNDING = 16 * float(np.finfo(float).eps)
"""Of a price, a product or a sum of few terms, relative; everything longer is summed exactly."""


@dataclass(frozen=True)
class Instance:
    """A multiple-choice knapsack of G groups of at most O options under B budgets, for any limits.

    ``losses_GO`` are in nats, infinite where a group has no such option; ``costs_BGO`` are exact integers, ``weights_BGO`` the
    same over ``scales_B`` (the most that a budget's groups can use together), so that every row is of order 1: floats steer,
    integers decide what is feasible. ``cuts`` collects choices, each as (loss, scaled use): the planes under which the dual
    function lies for every limit, so that a neighbouring problem starts with them.
    """

    losses_GO: np.ndarray
    costs_BGO: np.ndarray
    weights_BGO: np.ndarray
    scales_B: np.ndarray
    cuts: list[tuple[float, np.ndarray]] = field(default_factory=list)

    def loss(self, choice: Choice) -> float:
        return math.fsum(self.losses_GO[np.arange(len(choice)), choice].tolist())

    def used(self, choice: Choice) -> np.ndarray:
        """Each budget's use by the groups, in exact integers."""
        picked: np.ndarray = self.costs_BGO[:, np.arange(len(choice)), choice].sum(axis=1)
        return picked


def instance_of(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[Sequence[int]]], budgets: int
) -> Instance:
    """Arrays from each group's ``losses[o]`` and ``costs[b][o]``."""
    shape = (len(losses), max(map(len, losses)))
    losses_GO, costs_BGO = np.full(shape, np.inf), np.zeros((budgets, *shape), dtype=np.int64)
    for g, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
        losses_GO[g, : len(loss)] = loss
        costs_BGO[:, g, : len(loss)] = np.array(cost, dtype=np.int64).reshape(budgets, len(loss))
    scales_B = np.maximum(costs_BGO.max(axis=2).sum(axis=1), 1).astype(float)
    return Instance(losses_GO, costs_BGO, costs_BGO / scales_B[:, None, None], scales_B)


@dataclass(frozen=True)
class Relaxation:
    """The bound at multipliers ``lam_B`` (nats per scale), each group's cheapest option and every option's reduced cost.

    A plan's loss is  ``bound`` + Σ reduced costs + λ·(room − use), up to ``noise``, what rounding can amount to; ``bound`` is
    already less that.
    """

    lam_B: np.ndarray
    bound: float
    choice: Choice
    reduced_GO: np.ndarray
    noise: float


def relaxed(instance: Instance, lam_B: np.ndarray, room_B: np.ndarray) -> Relaxation:
    """Evaluate the bound for what is left of each limit, ``room_B`` in exact integers."""
    priced_GO = instance.losses_GO + np.tensordot(lam_B, instance.weights_BGO, axes=1)
    choice = priced_GO.argmin(axis=1)
    least_G = priced_GO[np.arange(len(choice)), choice]
    rooms = (lam_B * (room_B / instance.scales_B)).tolist()
    noise = _ROUNDING * math.fsum([*np.abs(least_G).tolist(), *rooms])
    bound = math.fsum([*least_G.tolist(), *(-room for room in rooms)]) - noise
    return Relaxation(lam_B, bound, choice.tolist(), priced_GO - least_G[:, None], noise)


def best_relaxation(instance: Instance, room_B: np.ndarray) -> Relaxation:
    """The relaxation at (nearly) the best multipliers, by cutting planes: every choice is a plane above the dual function.

    The caller has checked that the smallest options fit, which keeps the planes' program feasible.
    """
    if not instance.cuts:
        _add_cut(instance, [0] * len(instance.losses_GO))
        _add_cut(instance, instance.losses_GO.argmin(axis=1).tolist())
    elif len(instance.cuts) > _MOST_CUTS:
        instance.cuts[2 : len(instance.cuts) - _MOST_CUTS // 2] = []
    room = room_B / instance.scales_B
    best: Relaxation | None = None
    seen: set[tuple[int, ...]] = set()
    for _ in range(_MOST_ROUNDS):
        lam, ceiling = _highest(instance, room)
        relaxation = relaxed(instance, lam, room_B)
        if best is None or relaxation.bound > best.bound:
            best = relaxation
        key = tuple(relaxation.choice)
        if key in seen or ceiling - best.bound <= _CONVERGED * abs(ceiling):
            break
        seen.add(key)
        _add_cut(instance, relaxation.choice)
    assert best is not None
    return best


def _add_cut(instance: Instance, choice: Choice) -> None:
    use = instance.weights_BGO[:, np.arange(len(choice)), choice].sum(axis=1)
    instance.cuts.append((instance.loss(choice), use))


def _highest(instance: Instance, room: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the lowest of the planes is highest: the cheapest mixture of the choices seen that fits, and its prices."""
    losses = np.array([loss for loss, _ in instance.cuts])
    uses = np.array([use for _, use in instance.cuts])
    fitting = losses[(uses <= room + 1e-12).all(axis=1)]
    scale = max(float(fitting.min(initial=np.inf)), float(losses.max()) * 1e-9)
    if not 1e-200 < scale < math.inf:
        scale = 1.0
    solved = linprog(
        losses / scale,
        A_ub=uses.T,
        b_ub=room,
        A_eq=np.ones((1, len(losses))),
        b_eq=[1.0],
        method="highs-ds",
    )
    if not solved.success:  # feasible by a hair only: zero prices still give a valid bound
        return np.zeros(len(room)), math.inf
    return np.maximum(-solved.ineqlin.marginals, 0.0) * scale, float(solved.fun or 0.0) * scale


def incumbent(instance: Instance, start: Choice, room_B: np.ndarray) -> Choice:
    """A feasible plan near ``start``: greedy repair of what is over, then greedy use of what is left.

    The first options are the least for every budget and fit, as the caller has checked: some step to an earlier option always
    frees something of what is over.
    """
    choice = np.array(start)
    rows = np.arange(len(choice))
    options = np.arange(instance.losses_GO.shape[1])
    used = instance.used(start)
    while (over := used > room_B).any():
        weights_B1 = instance.weights_BGO[over]
        freed_GO = (weights_B1[:, rows, choice][:, :, None] - weights_B1).sum(axis=0)
        rise_GO = instance.losses_GO - instance.losses_GO[rows, choice][:, None]
        useful = (freed_GO > 0) & (options < choice[:, None])
        rate_GO = np.where(useful, rise_GO / np.where(useful, freed_GO, 1.0), np.inf)
        used = _take(instance, choice, used, int(rate_GO.argmin()))
    while True:
        extra_BGO = instance.costs_BGO - instance.costs_BGO[:, rows, choice][:, :, None]
        fits_GO = (extra_BGO <= (room_B - used)[:, None, None]).all(axis=0)
        won_GO = np.where(fits_GO, instance.losses_GO[rows, choice][:, None] - instance.losses_GO, 0.0)
        spot = int(won_GO.argmax())
        if won_GO.flat[spot] <= 0:
            return [int(pick) for pick in choice]
        used = _take(instance, choice, used, spot)


def _take(instance: Instance, choice: np.ndarray, used: np.ndarray, spot: int) -> np.ndarray:
    group, option = divmod(spot, instance.losses_GO.shape[1])
    change: np.ndarray = instance.costs_BGO[:, group, option] - instance.costs_BGO[:, group, choice[group]]
    choice[group] = option
    return used + change
