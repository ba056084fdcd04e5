"""The integer program: one rank per component, every budget met, least total loss, with a proof.

    minimise    Σ_g Σ_o loss[g,o] x[g,o]
    such that   Σ_o x[g,o] = 1                           for every group g
                Σ_g Σ_o cost[b,g,o] x[g,o] <= limit_b − constant_b    for every budget b
                x binary

PuLP builds it, HiGHS (default) or CBC solves it. No solver's word is taken: see ``docs/explanation/integer-program.md``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pulp

from allocator.bound import Choice, Instance, incumbent, multipliers, relaxed
from allocator.errors import BudgetInfeasible, JobFailed

Solver = Literal["highs", "cbc"]
RELATIVE_GAP = 1e-4
"""Far below the curves' own error; ten times less costs ten times the time at 32 layers."""
ABSOLUTE_GAP_NATS = 1e-9
_PLENTY = 2**62
"""More of any metric than a model can use (budgets keep batch x context below 10^12), and safe to add to in int64."""


@dataclass(frozen=True)
class Group:
    """One component's options in ascending rank. ``costs[b][o]`` are integers in budget b's unit, ascending with o."""

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


@dataclass(frozen=True)
class Solution:
    """The chosen option of every group and what is proved about it.

    ``status`` is "optimal" (gap within 1e-4 relative or 1e-9 nats) or "feasible" (the time ran out first, or the solver was
    CBC, which gives no bound, and ours does not close the gap). ``bound_nats`` is the better of the solver's bound and ours,
    ``independent_bound_nats`` ours alone. ``gap`` is relative to the loss.
    ``shadow_prices`` are nats saved per further unit of each budget, by the linear relaxation.
    """

    choice: Choice
    loss_nats: float
    used: tuple[int, ...]
    status: Literal["optimal", "feasible"]
    gap: float
    bound_nats: float
    independent_bound_nats: float
    shadow_prices: tuple[float, ...]
    solver: str
    time_s: float


def resum(groups: Sequence[Group], rows: Sequence[Row], choice: Choice) -> tuple[int, ...]:
    """Each budget's use in exact integers, constants included."""
    return tuple(
        row.constant + sum(group.costs[b][pick] for group, pick in zip(groups, choice, strict=True))
        for b, row in enumerate(rows)
    )


def check_feasible(groups: Sequence[Group], rows: Sequence[Row]) -> None:
    """Refuse limits below what the smallest ranks reach.

    Costs rise with the rank in every metric, so the smallest option of every group minimises all budgets at once: budgets
    are jointly feasible exactly if each one is.

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
        f"{a['metric']}: {a['limit']} {a['unit']} asked, {a['minimum']} is the least that any ranks reach"
        for a in achievable
        if not a["met"]
    )
    raise BudgetInfeasible(f"{missed}. Raise the limit to at least that.", achievable=achievable)


def solve(
    groups: Sequence[Group], rows: Sequence[Row], *, solver: Solver = "highs", time_limit_s: float = 60.0
) -> Solution:
    """Solve to proven optimality, or say how far the answer may be from it.

    Raises:
        BudgetInfeasible: see ``check_feasible``.
    """
    started = time.monotonic()
    check_feasible(groups, rows)
    instance = _scaled(groups, rows)
    lam = multipliers(instance)
    own_bound, start, reduced = relaxed(instance, lam)
    best = incumbent(instance, start)
    best_loss, solver_bound = instance.loss(best), 0.0
    if not _closed(best_loss, own_bound):
        # Options whose reduced cost alone lifts the bound above the incumbent cannot be in a better plan.
        slack = (best_loss - own_bound) * (1 + 1e-9) + 1e-15
        kept = [np.flatnonzero(cost <= slack) for cost in reduced]
        found, solver_bound = _branch_and_bound(instance, kept, best_loss, solver, time_limit_s)
        if found is not None:
            found = incumbent(instance, found)  # a solver's feasibility tolerance is not ours
            if instance.loss(found) < best_loss:
                best, best_loss = found, instance.loss(found)
    bound = min(max(own_bound, solver_bound), best_loss)
    used = resum(groups, rows, best)
    if any(value > row.limit for value, row in zip(used, rows, strict=True)):
        raise JobFailed(
            "the chosen ranks exceed a budget when re-summed in integers; this is a bug, please report it"
        )
    return Solution(
        choice=best,
        loss_nats=best_loss,
        used=used,
        status="optimal" if _closed(best_loss, bound) else "feasible",
        gap=(best_loss - bound) / best_loss if best_loss > 0 else 0.0,
        bound_nats=bound,
        independent_bound_nats=min(own_bound, best_loss),
        shadow_prices=tuple(float(price) / row.limit for price, row in zip(lam, rows, strict=True)),
        solver=solver,
        time_s=time.monotonic() - started,
    )


def _closed(loss: float, bound: float) -> bool:
    return loss - bound <= max(RELATIVE_GAP * loss, ABSOLUTE_GAP_NATS)


def _scaled(groups: Sequence[Group], rows: Sequence[Row]) -> Instance:
    """Budget rows divided by their limits: raw bytes beside raw nats make solvers return wrong optima."""
    costs = [np.array(group.costs, dtype=np.int64) for group in groups]
    limits = np.array([[float(row.limit)] for row in rows])
    room_units = np.array([min(row.limit - row.constant, _PLENTY) for row in rows], dtype=np.int64)
    room = np.array([(row.limit - row.constant) / row.limit for row in rows])
    losses = [np.array(group.losses) for group in groups]
    return Instance(losses, costs, room_units, [cost / limits for cost in costs], room)


def _branch_and_bound(
    instance: Instance, kept: list[np.ndarray], best_loss: float, solver: Solver, time_limit_s: float
) -> tuple[Choice | None, float]:
    """The solver's best choice (or None) and its lower bound in nats (0 if it gives none)."""
    scale = best_loss / 1000
    problem = pulp.LpProblem("ranks", pulp.LpMinimize)
    variables = [
        [problem.add_variable(f"x_{g:04d}_{o:04d}", cat="Binary") for o in options]
        for g, options in enumerate(kept)
    ]
    pairs = [
        (variable, g, o) for g, row in enumerate(variables) for variable, o in zip(row, kept[g], strict=True)
    ]
    problem += pulp.LpAffineExpression({v: float(instance.losses[g][o]) / scale for v, g, o in pairs})
    for row in variables:
        problem += pulp.LpAffineExpression(dict.fromkeys(row, 1)) == 1
    for b, room in enumerate(instance.room):
        expression = pulp.LpAffineExpression(
            {v: float(instance.weights[g][b, o]) * 1000 for v, g, o in pairs}
        )
        problem += expression <= float(room) * 1000
    problem.solve(_engine(solver, time_limit_s))
    # LpStatus says "Optimal" after a time limit too, and infeasible problems leave zeros behind: ask sol_status.
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None, 0.0
    choice = []
    for g, row in enumerate(variables):
        values = [variable.value() or 0.0 for variable in row]
        spot = int(np.argmax(values))
        if abs(sum(values) - 1) > 1e-4 or values[spot] < 0.99:
            return None, 0.0
        choice.append(int(kept[g][spot]))
    return choice, _solver_bound(problem, solver, scale)


def _solver_bound(problem: Any, solver: Solver, scale: float) -> float:
    """What the solver proved, in nats. CBC through PuLP reports no bound, and its mere word "Optimal" proves nothing."""
    bound = float(problem.solverModel.getInfo().mip_dual_bound) * scale if solver == "highs" else 0.0
    return bound if math.isfinite(bound) else 0.0


def _engine(solver: Solver, time_limit_s: float) -> Any:
    if solver == "highs":
        return pulp.HiGHS(
            msg=False, gapRel=RELATIVE_GAP / 2, threads=1, timeLimit=time_limit_s, random_seed=1
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PuLP 3.3 announces that 4 will ship CBC apart; we pin below 4
        return pulp.PULP_CBC_CMD(
            msg=False,
            gapRel=RELATIVE_GAP / 2,
            threads=1,
            timeLimit=time_limit_s,
            # The bundled CBC 2.10.3 loses the optimum in its preprocessing (a case is in the tests).
            options=["preprocess off"],
        )
