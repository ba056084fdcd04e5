"""The program in PuLP, for what our own bound and enumeration leave open, by HiGHS.

Raw nats (1e-6) beside raw bytes (1e10) make solvers return wrong plans with status "Optimal": the objective is divided by the
plan to beat, each row by its limit. Whatever a solver says is checked by the caller.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pulp

from allocator.plan.program.bound import Choice, Instance

SOLVER = "highs"
"""As certificates name it."""
RELATIVE_GAP = 1e-4
"""Far below the curves' own error; ten times less costs ten times the time at 32 layers."""
_SCALE = 1000.0
_MOST_CUTS = 20


@dataclass(frozen=True)
class Answer:
    """A solver's choice (None: nothing that fits), its lower bound in nats (-inf: none), and whether it finished."""

    choice: Choice | None
    bound: float
    finished: bool


def branch_and_bound(
    instance: Instance,
    room_B: np.ndarray,
    kept: list[np.ndarray],
    best_loss: float,
    time_limit_s: float,
) -> Answer:
    """Solve over the options ``kept`` of every group. A choice that a tolerance let slip over a limit is cut off by itself."""
    ends = time.monotonic() + time_limit_s
    scale = best_loss / _SCALE
    problem = pulp.LpProblem("ranks", pulp.LpMinimize)
    variables = [
        [problem.add_variable(f"x_{g:04d}_{o:04d}", cat="Binary") for o in options]
        for g, options in enumerate(kept)
    ]
    pairs = [
        (variable, g, o) for g, row in enumerate(variables) for variable, o in zip(row, kept[g], strict=True)
    ]
    problem += pulp.LpAffineExpression({v: float(instance.losses_GO[g, o]) / scale for v, g, o in pairs})
    for row in variables:
        problem += pulp.LpAffineExpression(dict.fromkeys(row, 1)) == 1
    for cost_GO, room in zip(instance.costs_BGO, room_B, strict=True):
        unit = _SCALE / max(int(room), 1)
        problem += pulp.LpAffineExpression({v: float(cost_GO[g, o]) * unit for v, g, o in pairs}) <= (
            float(room) * unit
        )
    bound = -math.inf
    for _ in range(_MOST_CUTS):
        problem.solve(_engine(max(ends - time.monotonic(), 0.1)))
        choice = _choice(problem, variables, kept)
        if choice is None:
            return Answer(None, bound, False)
        # Cuts remove only plans that do not fit, so every round's bound holds.
        bound = max(bound, _bound(problem, scale))
        if (instance.used(choice) <= room_B).all():
            return Answer(choice, bound, problem.sol_status == pulp.LpSolutionOptimal)
        if time.monotonic() >= ends:
            break
        picked = [row[int(np.flatnonzero(kept[g] == choice[g])[0])] for g, row in enumerate(variables)]
        problem += pulp.LpAffineExpression(dict.fromkeys(picked, 1)) <= len(picked) - 1
    return Answer(choice, bound, False)


def _choice(problem: Any, variables: list[list[Any]], kept: list[np.ndarray]) -> Choice | None:
    # LpStatus says "Optimal" after a time limit too, and infeasible problems leave zeros behind: ask sol_status.
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        return None
    choice = []
    for g, row in enumerate(variables):
        values = [variable.value() or 0.0 for variable in row]
        spot = int(np.argmax(values))
        if abs(sum(values) - 1) > 1e-4 or values[spot] < 0.99:
            return None
        choice.append(int(kept[g][spot]))
    return choice


def _bound(problem: Any, scale: float) -> float:
    """The bound that HiGHS proved, in nats."""
    bound = float(problem.solverModel.getInfo().mip_dual_bound) * scale
    return bound if math.isfinite(bound) else -math.inf


def _engine(time_limit_s: float) -> Any:
    return pulp.HiGHS(msg=False, gapRel=RELATIVE_GAP / 2, threads=1, timeLimit=time_limit_s, random_seed=1)
