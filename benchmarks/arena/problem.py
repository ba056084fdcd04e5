"""The problem that every rule of the arena solves, and the way from shares of ranks to ranks within budgets. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from allocator.plan.ask.budgets import Budget
from allocator.plan.ask.constraints import Place
from allocator.plan.documents.curve import Curve
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import predicted_loss

Shares = Mapping[Place, float]
"""(layer, component) -> the part of its full rank that it keeps."""
Picks = dict[Place, int]
"""(layer, component) -> which of its candidate ranks it has."""

HALVINGS = 60


class OutOfReach(ValueError):
    """A rule has no ranks, or no constants of it have, that meet the budgets."""


@dataclass(frozen=True)
class Signals:
    """Signals that rules of the field read from the dense model and the fit windows, per layer or per component."""

    tokens: int
    """How many the moments were taken over."""
    fisher: Mapping[Place, float]
    """Mean over the component's weights of sqrt(E[gradient^2])."""
    influence: tuple[float, ...]
    """1 - E[cos(input, output)] of each layer."""
    outliers: Mapping[float, tuple[float, ...]]
    """M -> of each layer the share of weights whose |W| ||x|| exceeds M times the layer's mean."""
    tails: Mapping[Place, tuple[float, ...]]
    """The component's analytic loss at every rank 0, 1, .. full: tail sums of its energies."""


@dataclass
class Problem:
    """One model under one set of budgets."""

    costs: CostModel
    budgets: Sequence[Budget]
    curves: Sequence[Curve]
    signals: Signals | None = None
    """None where a rule is tried on curves alone."""
    measure: Callable[[Ranks, int], float] | None = None
    """KL of one-shot cuts at these ranks on the first so many measure windows, nats/token; None: what curves predict."""
    windows: int = 0
    """How many windows were run to measure the curves: what a search may spend."""
    spent: int = field(default=0, init=False)
    """Windows run by ``loss``."""

    @cached_property
    def at(self) -> dict[Place, Curve]:
        return {(curve.layer, curve.component): curve for curve in self.curves}

    @cached_property
    def places(self) -> list[Place]:
        return [(layer, c) for layer in range(self.costs.geometry.layers) for c in COMPONENTS]

    @cached_property
    def ranks_of(self) -> dict[Place, Sequence[int]]:
        """The candidates of each component, ascending."""
        return {place: self.costs.geometry.candidate_ranks(place[1]) for place in self.places}

    @cached_property
    def limits(self) -> np.ndarray:
        """The part of each budget that is left for components, int64."""
        return np.array([b.limit(self.costs) - self.costs.constant(b.metric) for b in self.budgets])

    @cached_property
    def prices(self) -> dict[Place, np.ndarray]:
        """The cost of each candidate, (budgets, candidates) int64."""
        return {
            (layer, c): np.array(
                [
                    [self.costs.cost_of(b.metric, c, layer, rank) for rank in self.ranks_of[layer, c]]
                    for b in self.budgets
                ]
            )
            for layer, c in self.places
        }

    @cached_property
    def losses(self) -> dict[Place, np.ndarray]:
        """The curves' loss at each candidate, nats/token."""
        return {place: np.array(self.at[place].loss_nats) for place in self.places}

    @property
    def required_signals(self) -> Signals:
        """The signals, of a rule that cannot do without."""
        assert self.signals is not None, "tried on curves alone"
        return self.signals

    @cached_property
    def keep(self) -> float:
        """The tightest budget, as a fraction of the dense model."""
        dense = Ranks.dense(self.costs.geometry)
        ratios = (Fraction(b.limit(self.costs), self.costs.total(b.metric, dense)) for b in self.budgets)
        return float(min(ratios))

    def loss(self, ranks: Ranks, windows: int) -> float:
        """The loss of a candidate that a measuring search sees."""
        self.spent += windows
        return self.predicted(ranks) if self.measure is None else self.measure(ranks, windows)

    def predicted(self, ranks: Ranks) -> float:
        return predicted_loss(self.curves, ranks)

    def ranks(self, picks: Picks) -> Ranks:
        layers = range(self.costs.geometry.layers)
        return Ranks(*(tuple(self.ranks_of[n, c][picks[n, c]] for n in layers) for c in COMPONENTS))

    def picks(self, ranks: Ranks) -> Picks:
        return {(n, c): list(self.ranks_of[n, c]).index(ranks.of(c)[n]) for n, c in self.places}

    def used(self, picks: Picks) -> np.ndarray:
        """The use of each budget, int64."""
        return np.sum([self.prices[place][:, pick] for place, pick in picks.items()], axis=0)

    def fits(self, picks: Picks) -> bool:
        return bool((self.used(picks) <= self.limits).all())

    def floored(self, shares: Shares) -> Picks:
        """The largest candidate of each component within its share, or its smallest."""
        picks = {}
        for place in self.places:
            ranks = self.ranks_of[place]
            # A share that was computed to be a candidate's must not miss it by a rounding.
            largest = min(max(shares[place], 0.0), 1.0) * ranks[-1] * (1 + 1e-12)
            picks[place] = max(int(np.searchsorted(ranks, largest, side="right")) - 1, 0)
        return picks

    def largest(self, at: Callable[[float], Shares], low: float, high: float) -> Shares:
        """The shares at the largest target from ``low`` to ``high`` whose ranks meet every budget; they rise with it.

        Raises:
            OutOfReach: not even those at ``low`` do.
        """
        if self.fits(self.floored(at(high))):
            return at(high)
        if not self.fits(self.floored(at(low))):
            raise OutOfReach(
                "the rule keeps some components whole at any target, which the budgets do not allow"
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(self.floored(at(middle))) else (low, middle)
        return at(low)

    def cut_most(self, shares: Shares) -> list[Place]:
        """Components by how much of a rank flooring took, most first."""
        picks = self.floored(shares)

        def lost(place: Place) -> float:
            ranks = self.ranks_of[place]
            return ranks[picks[place]] / ranks[-1] - min(shares[place], 1.0)

        return sorted(self.places, key=lost)

    def filled(self, picks: Picks, order: Iterable[Place]) -> Picks:
        """One more candidate step for each, in this order, where it fits."""
        picks, used = dict(picks), self.used(picks)
        for place in order:
            pick, prices = picks[place], self.prices[place]
            if pick + 1 < prices.shape[1]:
                raised = used + prices[:, pick + 1] - prices[:, pick]
                if (raised <= self.limits).all():
                    picks[place], used = pick + 1, raised
        return picks

    def shared(self, at: Callable[[float], Shares], low: float, high: float) -> Ranks:
        """``largest``, and what flooring left goes where it cut most."""
        shares = self.largest(at, low, high)
        return self.ranks(self.filled(self.floored(shares), self.cut_most(shares)))
