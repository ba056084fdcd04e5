"""Uniform allocations: what a plan has to beat at the same budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from allocator.budgets import Budget
from allocator.costs import CostModel, Ranks
from allocator.geometry import COMPONENTS, Component, Geometry

Predict = Callable[[Ranks], float]
Allowed = Mapping[tuple[int, Component], Sequence[int]]
"""(layer, component) -> the ranks it may take, ascending."""


def floored(geometry: Geometry, component: Component, ratio: Fraction) -> int:
    """The rank at ``ratio`` of the full rank, floored to the component's step, at least one step."""
    full, step = geometry.full_rank(component), geometry.step(component)
    return full if ratio >= 1 else max(step, int(ratio * full) // step * step)


def _ratios(geometry: Geometry, components: Sequence[Component]) -> list[Fraction]:
    """Every ratio at which some component's floored rank changes, descending from 1."""
    spots = {
        Fraction(rank, geometry.full_rank(c)) for c in components for rank in geometry.candidate_ranks(c)
    }
    return sorted(spots, reverse=True)


def _same_everywhere(
    geometry: Geometry, attention: Fraction, mlp: Fraction, allowed: Allowed | None
) -> Ranks:
    """One ratio for QK and OV and one for the MLP: of every component the largest rank within it, or its smallest."""
    ratio: dict[Component, Fraction] = {"qk": attention, "ov": attention, "mlp": mlp}

    def rank(layer: int, component: Component) -> int:
        if allowed is None:
            return floored(geometry, component, ratio[component])
        ranks, most = allowed[layer, component], ratio[component] * geometry.full_rank(component)
        return max((rank for rank in ranks if rank <= most), default=ranks[0])

    return Ranks(*(tuple(rank(layer, c) for layer in range(geometry.layers)) for c in COMPONENTS))


def _fits(costs: CostModel, budgets: Sequence[Budget], ranks: Ranks) -> bool:
    return all(costs.total(budget.metric, ranks) <= budget.limit(costs) for budget in budgets)


def uniform(costs: CostModel, budgets: Sequence[Budget], allowed: Allowed | None = None) -> Ranks | None:
    """The largest single ratio for all components that meets every budget; None if not even the smallest does.

    Args:
        allowed: the ranks that constraints leave of every component; default: the geometry's candidates.
    """
    for ratio in _ratios(costs.geometry, COMPONENTS):
        ranks = _same_everywhere(costs.geometry, ratio, ratio, allowed)
        if _fits(costs, budgets, ranks):
            return ranks
    return None


def uniform_kind(
    costs: CostModel, budgets: Sequence[Budget], predict: Predict, allowed: Allowed | None = None
) -> Ranks | None:
    """The best pair of one ratio for QK and OV and one for the MLP: least predicted loss under every budget."""
    geometry = costs.geometry
    best: tuple[float, Ranks] | None = None
    mlp_ratios = _ratios(geometry, ["mlp"])
    for attention in _ratios(geometry, ["qk", "ov"]):
        for mlp in mlp_ratios:  # descending: the first that fits is the best for this attention ratio
            ranks = _same_everywhere(geometry, attention, mlp, allowed)
            if _fits(costs, budgets, ranks):
                loss = predict(ranks)
                if best is None or loss < best[0]:
                    best = (loss, ranks)
                break
    return None if best is None else best[1]
