"""Our own lower bound, and a good plan to start from, by Lagrangian relaxation.

For multipliers λ >= 0 the value  Σ_groups min_option (loss + λ·cost) − λ·limit  is a lower bound on every feasible plan
(weak duality), whichever λ is used. The multipliers come from the linear relaxation; the bound itself is summed here in
float64, so it does not rest on any solver's word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

Choice = list[int]


@dataclass(frozen=True)
class Instance:
    """A multiple-choice knapsack: group g has losses[g] (options) and costs[g] (budgets x options, int64).

    ``room_units`` is what is left of each limit after the constant part. ``weights`` and ``room`` are the same divided by the
    limits, so that every row is of order 1: floats steer, integers decide what is feasible.
    """

    losses: list[np.ndarray]
    costs: list[np.ndarray]
    room_units: np.ndarray
    weights: list[np.ndarray]
    room: np.ndarray

    def loss(self, choice: Choice) -> float:
        return math.fsum(float(loss[pick]) for loss, pick in zip(self.losses, choice, strict=True))

    def used(self, choice: Choice) -> np.ndarray:
        """Each budget's use by the groups, in exact integers."""
        return np.sum([cost[:, pick] for cost, pick in zip(self.costs, choice, strict=True)], axis=0)


def multipliers(instance: Instance) -> np.ndarray:
    """Optimal multipliers of the linear relaxation (one per budget, >= 0), in nats per limit."""
    sizes = [len(loss) for loss in instance.losses]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    columns = np.arange(len(groups))
    one_each = coo_array((np.ones(len(groups)), (groups, columns)), shape=(len(sizes), len(groups)))
    solved = linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrices
        np.concatenate(instance.losses),
        A_ub=np.concatenate(instance.weights, axis=1),
        b_ub=instance.room,
        A_eq=one_each.tocsr(),
        b_eq=np.ones(len(sizes)),
        method="highs",
    )
    if not solved.success:  # the caller has checked feasibility; zero multipliers still give a valid bound
        return np.zeros(len(instance.room))
    return np.maximum(-solved.ineqlin.marginals, 0.0)


def relaxed(instance: Instance, lam: np.ndarray) -> tuple[float, Choice, list[np.ndarray]]:
    """The lower bound at ``lam``, each group's cheapest option, and every option's reduced cost."""
    priced = [loss + lam @ weight for loss, weight in zip(instance.losses, instance.weights, strict=True)]
    choice = [int(np.argmin(price)) for price in priced]
    bound = math.fsum(float(price.min()) for price in priced) - float(lam @ instance.room)
    return max(bound, 0.0), choice, [price - price.min() for price in priced]


def incumbent(instance: Instance, start: Choice) -> Choice:
    """A feasible plan near ``start``: greedy repair of what is over, then greedy use of what is left.

    Options are sorted by rank, so one step down always frees something; the caller has checked that the smallest fit.
    """
    choice = list(start)
    used = instance.used(choice)
    while (over := used > instance.room_units).any():
        best: tuple[float, int, int] | None = None
        for group, pick in enumerate(choice):
            for option in range(pick):
                freed = (instance.weights[group][:, pick] - instance.weights[group][:, option])[over].sum()
                if freed <= 0:
                    continue
                rate = float(instance.losses[group][option] - instance.losses[group][pick]) / float(freed)
                if best is None or rate < best[0]:
                    best = (rate, group, option)
        assert best is not None, "infeasible instances are refused before"
        _, group, option = best
        used = used + instance.costs[group][:, option] - instance.costs[group][:, choice[group]]
        choice[group] = option
    while True:
        gain: tuple[float, int, int] | None = None
        for group, pick in enumerate(choice):
            for option in range(pick + 1, len(instance.losses[group])):
                extra = instance.costs[group][:, option] - instance.costs[group][:, pick]
                if (used + extra > instance.room_units).any():
                    break
                won = float(instance.losses[group][pick] - instance.losses[group][option])
                if won > 0 and (gain is None or won > gain[0]):
                    gain = (won, group, option)
        if gain is None:
            return choice
        _, group, option = gain
        used = used + instance.costs[group][:, option] - instance.costs[group][:, choice[group]]
        choice[group] = option
