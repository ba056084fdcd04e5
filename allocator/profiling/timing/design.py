"""The models that take turns: those that staircases are made of, and those that they are compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence

from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.ranks import Ranks
from allocator.profiling.timing.models import Setup

ModelName = tuple[str, int | float]
"""The purpose of a timed model, and its rank or its share of all ranks."""
DENSE: ModelName = ("dense", 0)
SMALLEST: ModelName = ("smallest", 0)
CHECKS = (0.3, 0.55, 0.8)
"""Shares of all ranks at which models are timed that no step is made of; as in plans their ranks differ from layer to layer."""


def spread_ranks(candidates: Sequence[int], points: int) -> list[int]:
    """The ranks that are measured: evenly spread, the smallest and the full one among them."""
    last = len(candidates) - 1
    return sorted(
        {candidates[round(spot * last / max(points - 1, 1))] for spot in range(points)} | {candidates[-1]}
    )


class Design:
    """Models by name: dense, smallest, each component at each of its ranks around a middle, and mixed ones to check."""

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
        self.models: dict[ModelName, Ranks] = {DENSE: Ranks.dense(g)}
        self.models[SMALLEST] = self._all({c: ranks[0] for c, ranks in self.ranks.items()})
        for c in COMPONENTS:
            for rank in self.ranks[c]:
                self.models[c, rank] = self._all({c: rank})
        drawn = random.Random(0)  # noqa: S311 - the same models every time
        for share in CHECKS:
            self.models["check", share] = self._mixed(drawn, share)
        self.center: ModelName = ("ov", next(rank for rank in self.ranks["ov"] if rank >= self._middle["ov"]))
        """The model that parts are added to: all its ranks are measured ones."""

    def _all(self, changed: dict[Component, int]) -> Ranks:
        at = {**self._middle, **changed}
        return Ranks(*((at[c],) * self.geometry.layers for c in COMPONENTS))

    def _mixed(self, drawn: random.Random, share: float) -> Ranks:
        """Ranks of about this share, each layer and component by itself."""

        def rank_of(component: Component) -> int:
            target = drawn.betavariate(2 * share, 2 * (1 - share)) * self.geometry.full_rank(component)
            return min(self.geometry.candidate_ranks(component), key=lambda rank: abs(rank - target))

        return Ranks(*(tuple(rank_of(c) for _ in range(self.geometry.layers)) for c in COMPONENTS))
