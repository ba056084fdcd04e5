"""The integer program: one rank per component, every budget met, least total loss, with a proof.

    minimise    Σ_g Σ_o loss[g,o] x[g,o]
    such that   Σ_o x[g,o] = 1                           for every group g
                Σ_g Σ_o cost[b,g,o] x[g,o] <= limit_b − constant_b    for every budget b
                x binary

Our own bound, then our own enumeration, then a solver through PuLP for what those leave open. No solver's word is taken: see
``docs/explanation/integer-program.md``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from allocator.base.errors import BudgetInfeasible, JobFailed
from allocator.plan.program.bound import Choice, Relaxation, best_relaxation, incumbent, instance_of
from allocator.plan.program.enumeration import MOST_STATES, best_within, kinds_of
from allocator.plan.program.highs import RELATIVE_GAP, SOLVER, branch_and_bound

ABSOLUTE_GAP_NATS = 1e-9
_DEEPENING = 2.0
_FIRST_SHARE = 32
_LESS = 20
_AGREEMENT = 1e-6
"""How far a solver's bound may contradict what is known, relative; HiGHS's own tolerances are of this size."""


@dataclass(frozen=True)
class Group:
    """One component's options in ascending rank. ``costs[b][o]`` are integers in budget b's unit: the first option's the least
    of all, the others in any order.
    """

    name: str
    losses: tuple[float, ...]
    costs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    """One budget: Σ costs + ``constant`` <= ``limit``, all integers in ``unit``."""

    label: str
    limit: int
    constant: int
    unit: str
    ranks: str = "any ranks"
    """What there is to choose from, for the message that it does not reach."""


@dataclass(frozen=True)
class Solution:
    """The chosen option of every group and what is proved about it.

    ``status`` is "optimal" (gap within 1e-4 relative or 1e-9 nats) or "feasible" (the time ran out first). ``bound_nats`` is
    the better of the solver's bound and ours,
    ``independent_bound_nats`` ours alone, ``dual_bound_nats`` what the Lagrangian relaxation gives of it. ``gap`` is relative
    to the loss. ``proof`` names what closed the gap. ``warnings`` are contradictions found in a solver's answer.
    ``shadow_prices`` are nats saved per further unit of each budget, by the linear relaxation.
    """

    choice: Choice
    loss_nats: float
    used: tuple[int, ...]
    status: Literal["optimal", "feasible"]
    gap: float
    bound_nats: float
    independent_bound_nats: float
    dual_bound_nats: float
    shadow_prices: tuple[float, ...]
    most_states: int
    proof: Literal["dual", "enumeration", "solver", "none"]
    warnings: tuple[str, ...]
    time_s: float


def resum(groups: Sequence[Group], rows: Sequence[Row], choice: Choice) -> tuple[int, ...]:
    """Each budget's use in exact integers, constants included."""
    return tuple(
        row.constant + sum(group.costs[b][pick] for group, pick in zip(groups, choice, strict=True))
        for b, row in enumerate(rows)
    )


def check_feasible(groups: Sequence[Group], rows: Sequence[Row]) -> None:
    """Refuse limits below what the smallest ranks reach.

    The first option of every group is the least in every metric, so together they minimise all budgets at once: budgets are
    jointly feasible exactly if each one is.

    Raises:
        BudgetInfeasible: with ``achievable``: [{metric, limit, minimum, unit}] for every budget.
    """
    least = resum(groups, rows, [0] * len(groups))
    if all(value <= row.limit for value, row in zip(least, rows, strict=True)):
        return
    achievable = [
        {
            "metric": row.label,
            "limit": row.limit,
            "minimum": value,
            "unit": row.unit,
            "met": value <= row.limit,
        }
        for row, value in zip(rows, least, strict=True)
    ]
    missed = "; ".join(
        f"{a['metric']}: {a['limit']} {a['unit']} asked, {a['minimum']} is the least that {row.ranks} reach"
        for a, row in zip(achievable, rows, strict=True)
        if not a["met"]
    )
    raise BudgetInfeasible(f"{missed}. Raise the limit to at least that.", achievable=achievable)


class Program:
    """The groups, made ready once to be solved under any limits; multipliers of one solve help the next.

    Args:
        budgets: how many rows of costs every group has.
    """

    def __init__(self, groups: Sequence[Group], budgets: int) -> None:
        self.groups = groups
        self.instance = instance_of([g.losses for g in groups], [g.costs for g in groups], budgets)
        self._kinds = kinds_of(self.instance)
        self._most_B = self.instance.costs_BGO.max(axis=2).sum(axis=1)
        self._floor = math.fsum(min(group.losses) for group in groups)

    def solve(
        self,
        rows: Sequence[Row],
        *,
        time_limit_s: float = 60.0,
        most_states: int = MOST_STATES,
        known: Choice | None = None,
    ) -> Solution:
        """Solve to proven optimality, or say how far the answer may be from it.

        Args:
            known: a choice found before, perhaps under other limits: the answer is no worse where it fits.
            most_states: how much may be enumerated; 0 leaves everything to HiGHS.

        Raises:
            BudgetInfeasible: see ``check_feasible``.
            JobFailed: the chosen ranks exceed a budget when re-summed, which would be a bug.
        """
        started = time.monotonic()
        check_feasible(self.groups, rows)
        instance = self.instance
        # A limit beyond all use is as good as none, however large it is.
        room_B = np.array(
            [
                min(row.limit - row.constant, 2 * int(m) + 1)
                for row, m in zip(rows, self._most_B, strict=True)
            ],
            dtype=np.int64,
        )
        relaxation = best_relaxation(instance, room_B)
        dual = own = max(relaxation.bound, self._floor)
        best = incumbent(instance, relaxation.choice, room_B)
        if known is not None and instance.loss(known) < instance.loss(best) and self._fits(known, room_B):
            best = known
        proof: Literal["dual", "enumeration", "solver", "none"] = "dual"
        if instance.loss(best) > own and most_states:
            # Where the dual bound proves enough, what enumeration adds is worth less.
            states = most_states // _LESS if _closed(instance.loss(best), own) else most_states
            best, own = self._enumerated(relaxation, room_B, best, own, states, started + time_limit_s)
            proof = "dual" if _closed(instance.loss(best), dual) else "enumeration"
        doubts: tuple[str, ...] = ()
        loss = instance.loss(best)
        bound = min(own, loss)
        if not _closed(loss, own):
            # Options whose reduced cost alone lifts the bound above the incumbent cannot be in a better plan.
            slack = (loss - relaxation.bound) * (1 + 1e-9) + 1e-15
            left = started + time_limit_s - time.monotonic()
            kept = [np.flatnonzero(cost <= slack) for cost in relaxation.reduced_GO]
            answer = branch_and_bound(instance, room_B, kept, loss, max(left, 0.05))
            if answer.choice is not None:
                repaired = incumbent(instance, answer.choice, room_B)
                best = repaired if instance.loss(repaired) < loss else best
            loss = instance.loss(best)
            trusted, doubts = _judged(answer.bound, answer.finished, own, loss)
            bound = min(max(own, trusted), loss)
            proof = "solver" if _closed(loss, bound) and not _closed(loss, own) else proof
        used = resum(self.groups, rows, best)
        if any(value > row.limit for value, row in zip(used, rows, strict=True)):
            raise JobFailed(
                "the chosen ranks exceed a budget when re-summed in integers; this is a bug, please report it"
            )
        closed = _closed(loss, bound)
        return Solution(
            choice=best,
            loss_nats=loss,
            used=used,
            status="optimal" if closed else "feasible",
            gap=(loss - bound) / loss if loss > 0 else 0.0,
            bound_nats=bound,
            independent_bound_nats=min(own, loss),
            dual_bound_nats=min(dual, loss),
            shadow_prices=tuple(float(price) for price in relaxation.lam_B / instance.scales_B),
            most_states=most_states,
            proof=proof if closed else "none",
            warnings=doubts,
            time_s=time.monotonic() - started,
        )

    def _fits(self, choice: Choice, room_B: np.ndarray) -> bool:
        return bool((self.instance.used(choice) <= room_B).all())

    def _enumerated(
        self,
        relaxation: Relaxation,
        room_B: np.ndarray,
        best: Choice,
        own: float,
        most_states: int,
        ends: float,
    ) -> tuple[Choice, float]:
        """Look for the best plan ever further above the dual bound, until one is found or too many would have to be held."""
        instance = self.instance
        span = (instance.loss(best) - relaxation.bound) * (1 + 1e-9) + relaxation.noise
        reach = span / _FIRST_SHARE
        while True:
            reach = min(reach, span)
            enumeration = best_within(instance, self._kinds, relaxation, room_B, reach, most_states, ends)
            if enumeration.choice is not None and instance.loss(enumeration.choice) < instance.loss(best):
                best = enumeration.choice
            if not enumeration.complete:
                return best, own
            if enumeration.choice is not None:
                # Sums of floats in another order may differ by the noise.
                return best, max(own, instance.loss(best) - relaxation.noise)
            own = max(own, min(relaxation.bound + reach, instance.loss(best)))
            if reach >= span:
                return best, own
            reach *= _DEEPENING


def solve(
    groups: Sequence[Group],
    rows: Sequence[Row],
    *,
    time_limit_s: float = 60.0,
    most_states: int = MOST_STATES,
) -> Solution:
    """``Program.solve`` for one set of limits."""
    program = Program(groups, len(rows))
    return program.solve(rows, time_limit_s=time_limit_s, most_states=most_states)


def _judged(bound: float, finished: bool, own: float, loss: float) -> tuple[float, tuple[str, ...]]:
    """The solver's bound as far as it is believed: one that a plan at hand refutes, or below ours, is reported and not used."""
    margin = _AGREEMENT * abs(loss) + ABSOLUTE_GAP_NATS
    if bound > loss + margin:
        return -math.inf, (
            f"{SOLVER} claims that no plan loses less than {bound:.9g} nats, and here is one of {loss:.9g}; "
            "its bound is not used",
        )
    if finished and math.isfinite(bound) and bound < own - margin:
        return -math.inf, (
            f"{SOLVER} calls its answer optimal with a bound of {bound:.9g} nats, below our own of {own:.9g}; "
            "its bound is not used",
        )
    return bound, ()


def _closed(loss: float, bound: float) -> bool:
    return loss - bound <= max(RELATIVE_GAP * loss, ABSOLUTE_GAP_NATS)
