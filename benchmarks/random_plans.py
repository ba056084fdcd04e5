"""Random mixed plans that spend a budget: from lopsided to nearly uniform, none of them good on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np

from allocator.plan.ask.budgets import Budget
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.ranks import Ranks

CONCENTRATIONS = (0.5, 8.0)
"""Concentrations of the gamma (unnormalised Dirichlet) weights, drawn log-uniformly for each plan."""
_HALVINGS = 60


@dataclass(frozen=True)
class RandomPlan:
    """Ranks, and the concentration of the weights that they came from."""

    ranks: Ranks
    concentration: float


def random_plans(
    costs: CostModel, budget: Budget, count: int, generator: np.random.Generator
) -> list[RandomPlan]:
    """``count`` different plans of random ranks, each the largest total within the budget along its own weights.

    Every component of every layer gets a weight; it keeps the share ``min(1, s · weight)`` of its rank, floored to a rank that
    a plan may use, and s is the largest that the budget allows.

    Raises:
        ValueError: not even the smallest ranks meet the budget, or the dense model does.
    """
    limit, low, dense = (
        budget.limit(costs),
        _scaled(costs, _flat(costs, 0.0), 1.0),
        Ranks.dense(costs.geometry),
    )
    if not costs.total(budget.metric, low) <= limit < costs.total(budget.metric, dense):
        raise ValueError(f"{budget.text}: no random plan can spend this")
    lowest, highest = CONCENTRATIONS
    plans: dict[Ranks, RandomPlan] = {}
    while len(plans) < count:
        concentration = exp(generator.uniform(log(lowest), log(highest)))
        weights = generator.gamma(concentration, size=(len(COMPONENTS), costs.geometry.layers))
        ranks = _spend(costs, budget, limit, weights)
        plans.setdefault(ranks, RandomPlan(ranks, concentration))
    return list(plans.values())


def _flat(costs: CostModel, weight: float) -> np.ndarray:
    return np.full((len(COMPONENTS), costs.geometry.layers), weight)


def _spend(costs: CostModel, budget: Budget, limit: int, weights: np.ndarray) -> Ranks:
    """Bisection on the scale's logarithm, between everything at its least and everything dense."""
    low, high = -np.log(weights.max()) - log(costs.geometry.intermediate + 1.0), -np.log(weights.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if costs.total(budget.metric, _scaled(costs, weights, exp(middle))) <= limit:
            low = middle
        else:
            high = middle
    return _scaled(costs, weights, exp(low))


def _scaled(costs: CostModel, weights: np.ndarray, scale: float) -> Ranks:
    rows = zip(COMPONENTS, weights, strict=True)
    return Ranks(*(tuple(_floored(costs, c, float(scale * weight)) for weight in row) for c, row in rows))


def _floored(costs: CostModel, component: Component, share: float) -> int:
    """The largest rank that a plan may use within ``share`` of the full one, or the smallest there is."""
    candidates = costs.geometry.candidate_ranks(component)
    largest = min(1.0, share) * costs.geometry.full_rank(component)
    return max((rank for rank in candidates if rank <= largest), default=candidates[0])
