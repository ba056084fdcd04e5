"""Which models take turns, so that a staircase can be fitted to their times and held against others."""

from __future__ import annotations

import random
from collections.abc import Sequence

from allocator.costs import Ranks
from allocator.geometry import COMPONENTS, Component
from allocator.profiling.timing.models import Setup

Name = tuple[str, int | float]
"""What a model is for, and its rank or its share of all ranks."""
DENSE: Name = ("dense", 0)
MIXED = 12
"""Models whose ranks differ from layer to layer, as a plan's do, that the fit sees beside those around the middle."""
CHECKS = (0.3, 0.55, 0.8)
"""Shares of the ranks at which further ones are timed that the fit does not see."""
_LEAST, _MOST = 0.2, 0.95


def spread_ranks(candidates: Sequence[int], points: int) -> list[int]:
    """The ranks that are measured: evenly spread, the smallest and the full one among them."""
    last = len(candidates) - 1
    return sorted(
        {candidates[round(spot * last / max(points - 1, 1))] for spot in range(points)} | {candidates[-1]}
    )


class Design:
    """Models by name: dense, smallest, each component at each of its ranks around a middle, mixed ones, mixed ones to check.

    Parts alone do not tell what plans take: QK and OV share a layer's attention, and what each saves hangs on the other. The
    mixed models see them together.
    """

    def __init__(self, setup: Setup) -> None:
        g = self.geometry = setup.geometry
        self.ranks = {c: spread_ranks(g.candidate_ranks(c), setup.points) for c in COMPONENTS}
        self._middle = {c: ranks[len(ranks) // 2] for c, ranks in self.ranks.items()}
        # Equal ranks of QK and OV take another path through attention, which plans seldom do.
        between = [
            r for r in g.candidate_ranks("ov") if r not in self.ranks["qk"] and r not in self.ranks["ov"]
        ]
        if between:
            self._middle["ov"] = min(between, key=lambda rank: abs(rank - self._middle["ov"]))
        self.models: dict[Name, Ranks] = {DENSE: Ranks.dense(g)}
        self.models["smallest", 0] = self._all({c: ranks[0] for c, ranks in self.ranks.items()})
        for c in COMPONENTS:
            for rank in self.ranks[c]:
                self.models[c, rank] = self._all({c: rank})
        drawn = random.Random(0)  # noqa: S311 - the same models every time
        for spot in range(MIXED):
            share = _LEAST + (_MOST - _LEAST) * spot / (MIXED - 1)
            self.models["mixed", share] = self._mixed(drawn, share)
        for share in CHECKS:
            self.models["check", share] = self._mixed(drawn, share)

    @property
    def fitted(self) -> list[Name]:
        """All but the checks and the dense model, whose equal ranks are fused and which no plan charges by its parts."""
        return [name for name in self.models if name[0] not in ("dense", "check")]

    def _all(self, changed: dict[Component, int]) -> Ranks:
        at = {**self._middle, **changed}
        return Ranks(*((at[c],) * self.geometry.layers for c in COMPONENTS))

    def _mixed(self, drawn: random.Random, share: float) -> Ranks:
        """Ranks of about this share, each layer and component by itself."""

        def one(component: Component) -> int:
            wanted = drawn.betavariate(2 * share, 2 * (1 - share)) * self.geometry.full_rank(component)
            return min(self.geometry.candidate_ranks(component), key=lambda rank: abs(rank - wanted))

        return Ranks(*(tuple(one(c) for _ in range(self.geometry.layers)) for c in COMPONENTS))
