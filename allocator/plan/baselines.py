"""Uniform allocations: what a plan has to beat at the same budgets."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from allocator.plan.ask.budgets import Budget
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import Form
from allocator.plan.model.ranks import Ranks

UNIFORM_RATIO, UNIFORM_KIND, UNIFORM_BITS = "uniform", "uniform_kind", "uniform_bits"
"""Keys of a plan's ``baseline`` and of a report: the results of `uniform`, `uniform_kind` and `uniform_bits`."""

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


class _SameEverywhere:
    """One ratio for QK and OV and one for the MLP: of every component the largest rank within it, or its smallest."""

    def __init__(self, geometry: Geometry, allowed: Allowed | None) -> None:
        self._geometry, self._allowed = geometry, allowed
        self._cache: dict[tuple[Component, Fraction], tuple[int, ...]] = {}
        # Most layers may take the same ranks: each such list is searched once.
        self._lists: dict[Component, list[tuple[int, ...]]] = {}
        self._list_of: dict[Component, list[int]] = {}
        if allowed is not None:
            for c in COMPONENTS:
                number: dict[tuple[int, ...], int] = {}
                lists = [tuple(allowed[layer, c]) for layer in range(geometry.layers)]
                self._list_of[c] = [number.setdefault(ranks, len(number)) for ranks in lists]
                self._lists[c] = list(number)

    def at(self, attention: Fraction, mlp: Fraction) -> Ranks:
        return Ranks(self._ranks("qk", attention), self._ranks("ov", attention), self._ranks("mlp", mlp))

    def _ranks(self, component: Component, ratio: Fraction) -> tuple[int, ...]:
        key = component, ratio
        if key not in self._cache:
            self._cache[key] = self._within(component, ratio)
        return self._cache[key]

    def _within(self, component: Component, ratio: Fraction) -> tuple[int, ...]:
        if self._allowed is None:
            return (floored(self._geometry, component, ratio),) * self._geometry.layers
        most = int(ratio * self._geometry.full_rank(component))
        picked = [ranks[max(bisect_right(ranks, most) - 1, 0)] for ranks in self._lists[component]]
        return tuple(picked[number] for number in self._list_of[component])


def _fitting(costs: CostModel, budgets: Sequence[Budget], allowed: Allowed | None) -> Callable[[Ranks], bool]:
    """Whether ranks meet every budget by what a program would charge, looked up once."""
    geometry = costs.geometry
    ranks_of = allowed or {
        (layer, c): geometry.candidate_ranks(c) for layer in range(geometry.layers) for c in COMPONENTS
    }
    places = [(layer, c) for c in COMPONENTS for layer in range(geometry.layers)]
    rows = [
        (
            budget.limit(costs) - costs.constant(budget.metric),
            [
                dict(
                    zip(
                        ranks_of[place],
                        costs.charges(budget.metric, place[1], place[0], ranks_of[place]),
                        strict=True,
                    )
                )
                for place in places
            ],
        )
        for budget in budgets
    ]

    def shared(budget: Budget, ranks: Ranks) -> int:
        layers = range(len(ranks.qk))
        return sum(
            costs.shared(budget.metric, layer, ranks.at(layer, "qk"), ranks.at(layer, "ov"))
            for layer in layers
        )

    def fits(ranks: Ranks) -> bool:
        every = (*ranks.qk, *ranks.ov, *ranks.mlp)
        return all(
            sum(map(dict.__getitem__, costs_of, every))
            + (shared(budget, ranks) if costs.target.paired else 0)
            <= room
            for budget, (room, costs_of) in zip(budgets, rows, strict=True)
        )

    return fits


def uniform(costs: CostModel, budgets: Sequence[Budget], allowed: Allowed | None = None) -> Ranks | None:
    """The largest single ratio for all components that meets every budget; None if not even the smallest does.

    Args:
        allowed: the ranks that constraints leave of every component; default: the geometry's candidates.
    """
    fits = _fitting(costs, budgets, allowed)
    everywhere = _SameEverywhere(costs.geometry, allowed)
    for ratio in _ratios(costs.geometry, COMPONENTS):
        ranks = everywhere.at(ratio, ratio)
        if fits(ranks):
            return ranks
    return None


def uniform_bits(
    costs: CostModel,
    budgets: Sequence[Budget],
    predict: Predict,
    options: Mapping[tuple[int, Component], Sequence[tuple[int, Form]]],
    bits: Sequence[int],
) -> Ranks | None:
    """The best pair of one ratio and one number of bits for all components: least predicted loss under every budget.

    A component takes the largest of its ranks in these bits that is within the ratio, or the smallest there is; one that has no
    such bits stays in its own type.

    Args:
        options: (layer, component) -> the (rank, form) that it may take; those of latents are left out.
    """
    geometry = costs.geometry
    limits = [(budget.metric, budget.limit(costs)) for budget in budgets]
    best: tuple[float, Ranks] | None = None
    for width in (None, *bits):
        allowed, widths = {}, {}
        for place, choices in options.items():
            has = any(b == width for _, b in choices)
            widths[place] = width if has else None
            allowed[place] = sorted(rank for rank, b in choices if b == widths[place])
        rows = [[widths[layer, c] for c in COMPONENTS] for layer in range(geometry.layers)]
        everywhere = _SameEverywhere(geometry, allowed)
        for ratio in _ratios(geometry, COMPONENTS):
            ranks = everywhere.at(ratio, ratio).with_bits(rows)
            if all(costs.total(metric, ranks) <= limit for metric, limit in limits):
                loss = predict(ranks)
                if best is None or loss < best[0]:
                    best = (loss, ranks)
                break
    return None if best is None else best[1]


def uniform_kind(
    costs: CostModel, budgets: Sequence[Budget], predict: Predict, allowed: Allowed | None = None
) -> Ranks | None:
    """The best pair of one ratio for QK and OV and one for the MLP: least predicted loss under every budget."""
    geometry = costs.geometry
    fits = _fitting(costs, budgets, allowed)
    best: tuple[float, Ranks] | None = None
    mlp_ratios = _ratios(geometry, ["mlp"])

    everywhere = _SameEverywhere(geometry, allowed)

    def at(attention: Fraction, spot: int) -> Ranks:
        return everywhere.at(attention, mlp_ratios[spot])

    spot = len(mlp_ratios) - 1
    for attention in _ratios(geometry, ["qk", "ov"]):
        if not fits(at(attention, spot)):
            continue
        # The largest MLP ratio that fits grows as the attention's falls, so the search goes one way.
        while spot > 0 and fits(at(attention, spot - 1)):
            spot -= 1
        ranks = at(attention, spot)
        loss = predict(ranks)
        if best is None or loss < best[0]:
            best = (loss, ranks)
    return None if best is None else best[1]
