"""Profiles of two layers with four ranks a component, and all of their plans: answers can be checked by counting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from allocator.plan.ask.budgets import Budget
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.latency import LatencyTable, read_table
from tests.support.latency import table_document
from tests.support.profiles import SMALL, small_profile

TINY = SMALL.replaced(
    hidden=2, heads=2, kv_heads=1, head_dim=4, intermediate=4, qk_step=1, vocab=8, total_params=200
)
"""Ranks 1 to 4 of every component: 4096 plans."""

PLACES = [(layer, component) for layer in range(TINY.layers) for component in COMPONENTS]

AT = "@batch=1,context=64,phase=decode"
"""What `times` are known for."""


@cache
def _profile() -> Profile:
    return small_profile()


def tiny_profile(
    losses: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]] | None = None, **more: Any
) -> Profile:
    """The profile whose curves have these losses at these ranks.

    Args:
        ranks: of every curve, the last the full one; default: 1, 2, ...
    """
    ranks = ranks or [range(1, TINY.head_dim + 1)] * len(PLACES)
    curves = [
        Curve(
            layer=layer,
            component=component,
            full_rank=4,
            ranks=tuple(own),
            analytic=tuple(map(float, column)),
            loss_nats=tuple(map(float, column)),
            measured=(),
            repairs=(),
        )
        for (layer, component), own, column in zip(PLACES, ranks, losses, strict=True)
    ]
    profile = _profile()
    return profile.replaced(model=profile.model.replaced(geometry=TINY), curves=tuple(curves), **more)


def times(steps: Sequence[Sequence[int]], constant_ns: int, dense_ns: int) -> LatencyTable:
    """Nanoseconds of QK, OV and MLP at ranks 1 to 4 above rank 1: costs that are any integers, one apart where need be."""
    document = table_document(TINY)
    timing = {**document["timings"][0], "constant_ns": constant_ns, "dense_ns": dense_ns}
    timing["parts"] = {
        component: [{"rank": rank, "ns": ns, "spread_ns": 0} for rank, ns in enumerate(column, 1)]
        for component, column in zip(COMPONENTS, steps, strict=True)
    }
    return read_table({**document, "timings": [timing]})


@dataclass(frozen=True)
class AllPlans:
    """Every plan of a profile: what each loses, exactly rounded, and what it takes of each budget."""

    losses: np.ndarray
    used: np.ndarray
    """(budgets, plans)"""

    @classmethod
    def of(cls, profile: Profile, costs: CostModel, budgets: Sequence[Budget]) -> AllPlans:
        curves, offset = profile.curves, 0.0
        if profile.around is not None:
            start = profile.around.start
            there = [curve.loss_at(start.of(curve.component)[curve.layer]) for curve in curves]
            offset = profile.around.loss_nats - math.fsum(there)
        losses = [
            max(math.fsum([offset, *plan]), 0.0)
            for plan in itertools.product(*(curve.loss_nats for curve in curves))
        ]
        used = []
        for budget in budgets:
            each = [
                np.array([costs.cost_of(budget.metric, c.component, c.layer, rank) for rank in c.ranks])
                for c in curves
            ]
            used.append(costs.constant(budget.metric) + np.asarray(sum(np.ix_(*each))).ravel())
        return cls(np.array(losses), np.array(used))


@st.composite
def falling(draw: st.DrawFn, grain: float, most: int = 60) -> tuple[float, ...]:
    """Four losses that fall to 0, multiples of ``grain``: the sums of many are equal."""
    drops = draw(st.lists(st.integers(0, most), min_size=3, max_size=3))
    return tuple(grain * sum(drops[spot:]) for spot in range(4))


@st.composite
def rising(draw: st.DrawFn, most: int = 5) -> tuple[int, ...]:
    """Four integers that rise from 0."""
    return (0, *itertools.accumulate(draw(st.lists(st.integers(0, most), min_size=3, max_size=3))))


def curves_of(losses: st.SearchStrategy[tuple[float, ...]]) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(losses, min_size=len(PLACES), max_size=len(PLACES))


def around() -> st.SearchStrategy[dict[str, Any]]:
    """What a profile around a plan says of the plan."""
    ranks = st.lists(st.integers(1, 4), min_size=len(PLACES), max_size=len(PLACES))
    return st.builds(
        lambda flat, loss: {
            "plan": "e" * 64,
            "ranks": [
                {"layer": layer, **dict(zip(COMPONENTS, flat[3 * layer :], strict=False))}
                for layer in range(TINY.layers)
            ],
            "loss_nats": loss * 2.0**-10,
            "stderr_nats": 0.001,
        },
        ranks,
        st.integers(0, 200),
    )
