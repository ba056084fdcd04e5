"""All rules of the arena, in the order in which tables show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from allocator.plan.model.ranks import Ranks
from benchmarks.arena import evolution, exact, searches, shares
from benchmarks.arena.problem import Problem

Kind = Literal["published", "same problem", "ours"]


@dataclass(frozen=True)
class Rule:
    """``published``: a heuristic with a signal or a search of its own. ``same problem``: solvers on our own curves and searches
    with as many measurements, which should tie with ours.
    """

    name: str
    kind: Kind
    choose: Callable[[Problem], Ranks]


PUBLISHED = (
    Rule("uniform", "published", shares.uniform),
    Rule("A3-mix, by layer", "published", searches.a3_mix),
    Rule("Fisher share (Palu)", "published", shares.palu),
    Rule("STRS (ASVD)", "published", searches.strs),
    Rule("1/log loss (SVD-LLM v2)", "published", shares.svd_llm_v2),
    Rule("effective rank (D-Rank)", "published", shares.d_rank),
    Rule("block influence (MoDeGPT)", "published", shares.modegpt),
    Rule("outliers (OWL)", "published", shares.owl),
    Rule("threshold (ModelOpt, AIMET)", "published", searches.threshold),
    Rule("grid on relative error (ROCKET)", "published", exact.rocket),
    Rule("greedy per unit", "published", searches.greedy),
)
SAME_PROBLEM = (
    Rule("multipliers and swaps (AutoRound)", "same problem", exact.lagrangian),
    Rule("grid on our curves (ROCKET)", "same problem", exact.grid),
    Rule("evolution (EvoPress)", "same problem", evolution.evopress),
)
PLAN = "**plan**"
REFINED = "**plan, refined**"
"""The plan that ``rankalloc compress`` delivers; ``benchmarks.arena.run`` makes it, since it measures around a plan."""
RULES = (*PUBLISHED, *SAME_PROBLEM, Rule(PLAN, "ours", exact.plan))
