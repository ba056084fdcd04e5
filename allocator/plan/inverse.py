"""The inverse problem: the least of a metric at which a stated predicted loss can be kept.

The least loss under a limit of the metric falls as the limit grows, and the integer program finds it with a bound. So a limit
whose bound is above the stated loss is out of reach, for every smaller one too, and the multipliers of each solve rule out
limits by weak duality alone:  metric >= limit + (dual bound − stated loss) / λ_metric.  Both close in on the least value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import LARGEST, Budget, budget_text, parse_budgets, parse_metric
from allocator.plan.ask.choices import ILP
from allocator.plan.ask.least import LOSS, Least
from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_document, plan_from_profile
from allocator.plan.program.highs import SOLVER
from allocator.plan.program.problem import Question, question
from allocator.plan.program.solve import RELATIVE_GAP, Program, Solution

_MOST_TANGENTS = 8


def minimize(
    profile: Profile,
    metric: str,
    *,
    max_loss_nats: float,
    budgets: Sequence[str] = (),
    constraints: Mapping[str, Sequence[str]] | None = None,
    latency: LatencyTable | None = None,
    bits: Sequence[int] | None = None,
    created_by: str = "default",
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan that uses the least of ``metric`` among all whose predicted loss is at most ``max_loss_nats`` (nats/token).

    As ``plan_from_profile`` makes it, with the least value as a budget like the others; ``objective`` says
    what was minimised. The certificate's bounds are in the metric's unit; the loss is re-summed in float64, the metric in exact
    integers. Among plans of the least metric it is one of the least loss.

    Args:
        metric: as in a budget without its value: ``kv_bytes_per_token`` or ``memory@batch=8,context=131072``.
        latency: what latency metrics and budgets are counted in.
        budgets: further limits, as people write them; none of the same metric.

    Raises:
        BudgetSyntax: the metric or a budget cannot be read.
        BudgetInfeasible: no ranks lose so little within the budgets; says how little is possible.
        InvalidInput: a loss that is no number from 0 on, a budget on the same metric, or constraints that cannot be met.
    """
    if not (math.isfinite(max_loss_nats) and max_loss_nats >= 0):
        raise InvalidInput.of("max_loss_nats", max_loss_nats, "a number of nats per token from 0 on")
    started = time.monotonic()
    limits = parse_budgets(budgets) if budgets else []
    goal = Budget(metric, parse_metric(metric), absolute=LARGEST)
    for index, limit in enumerate(limits):
        if limit.metric == goal.metric:
            why = f"{goal.metric.label} is to be as small as it can; give"
            raise InvalidInput.of(f"budgets[{index}]", limit.text, "budgets on other metrics alone", why)
    problem = question(profile, [goal, *limits], constraints, latency, bits)
    dense = max(
        problem.costs.dense(goal.metric),
        problem.costs.total(goal.metric, Ranks.dense(problem.costs.geometry)),
    )
    start = replace(problem.rows[0], limit=dense)
    search = _Search(replace(problem, rows=[start, *problem.rows[1:]]), max_loss_nats, time_limit_s)
    solution, least, own_least = search.run()
    used = solution.used[0]
    certificate = {
        "status": "optimal" if used - least <= RELATIVE_GAP * used else "feasible",
        "gap": (used - least) / used if used else 0.0,
        "bound": least,
        "independent_bound": own_least,
        "dual_bound": search.dual_least,
        "unit": goal.metric.unit,
        "proof": "enumeration" if least == own_least else "solver",
        "warnings": list(solution.warnings),
        "solver": SOLVER,
        "most_states": solution.most_states,
        "time_s": round(time.monotonic() - started, 4),
    }
    reached = Budget(budget_text(goal.metric.label, used), goal.metric, absolute=used)
    return plan_document(
        replace(problem, budgets=[reached, *limits]),
        problem.ranks(solution.choice),
        allocation=ILP,
        certificate=certificate,
        prices=solution.shadow_prices,
        objective=Least(goal.metric.label, max_loss_nats).objective,
        created_by=created_by,
    )


def plan_or_least(
    profile: Profile,
    budgets: Sequence[str],
    *,
    least: str | None,
    max_loss_nats: float | None,
    allocation: str = ILP,
    **options: Any,
) -> Plan:
    """`minimize` where a metric to be least is named, else `plan_from_profile`; ``options`` are those of both.

    Raises:
        InvalidInput: one of ``least`` and ``max_loss_nats`` without the other, or beside uniform ranks.
    """
    if least is None and max_loss_nats is None:
        return plan_from_profile(profile, budgets, allocation=allocation, **options)
    if least is None or max_loss_nats is None:
        field, other = ("max_loss_nats", "least") if max_loss_nats is None else ("least", "max_loss_nats")
        allowed = "least=METRIC and max_loss_nats=NATS together, or neither"
        raise InvalidInput.of(field, "nothing", allowed, f"missing beside {other}; give")
    if allocation != ILP:
        raise InvalidInput.of("allocation", allocation, ILP, f"{allocation!r} does not go with least; use")
    return minimize(profile, least, max_loss_nats=max_loss_nats, budgets=budgets, **options)


class _Search:
    """Narrows the limit: below ``proven`` (and, without a solver, ``own``) nothing keeps the loss."""

    def __init__(self, problem: Question, most: float, time_limit_s: float) -> None:
        self._problem, self._most = problem, most
        self._ends = time.monotonic() + time_limit_s
        self._program = Program(problem.groups, len(problem.rows))
        self._stated = most - problem.offset
        goal = problem.rows[0]
        self._proven = self._own = self.dual_least = goal.constant + sum(
            group.costs[0][0] for group in problem.groups
        )
        self._doubtful = self._proven - 1

    def run(self) -> tuple[Solution, int, int]:
        """The best plan, the least value not ruled out, and the same by our own bounds alone."""
        # Of four-bit weights the least that constraints leave may take more than the dense model.
        best = self._solve(max(self._problem.rows[0].limit, self._proven))
        if not self._keeps(best):
            self._refuse(best)
        for _ in range(_MOST_TANGENTS):
            before = self._proven
            if self._proven >= best.used[0]:
                break
            solution = self._solve(self._proven)
            if self._keeps(solution):
                best = solution
                break
            if self._proven - before <= 1e-6 * before:
                break
        # Whatever a solve says, half of what is open is decided.
        while (low := max(self._proven - 1, self._doubtful)) + 1 < best.used[0]:
            if time.monotonic() >= self._ends:
                break
            solution = self._solve((low + best.used[0]) // 2)
            if self._keeps(solution):
                best = solution
        last = self._solve(best.used[0])
        best = min(best, last, key=lambda plan: (not self._keeps(plan), plan.loss_nats))
        used = best.used[0]
        # Whichever solve found the plan, its prices are those at the least value, which is its budget.
        best = replace(best, shadow_prices=last.shadow_prices)
        return best, min(self._proven, used), min(self._own, used)

    def _keeps(self, solution: Solution) -> bool:
        return self._problem.predicted(self._problem.ranks(solution.choice)) <= self._most

    def _solve(self, limit: int) -> Solution:
        goal, *other_rows = self._problem.rows
        left = max(self._ends - time.monotonic(), 1.0)
        rows = [replace(goal, limit=limit), *other_rows]
        solution = self._program.solve(rows, time_limit_s=left)
        margin = 1e-12 * abs(self._most)
        if not self._keeps(solution):
            if solution.bound_nats > self._stated + margin:
                self._proven = max(self._proven, limit + 1)
            else:
                self._doubtful = max(self._doubtful, limit)
            if solution.independent_bound_nats > self._stated + margin:
                self._own = max(self._own, limit + 1)
        price = solution.shadow_prices[0]
        if price > 0:
            # Weak duality holds at every limit for the same multipliers; the last unit is left to rounding.
            tangent = limit + (solution.dual_bound_nats - self._stated - margin) / price
            if math.isfinite(tangent):
                self.dual_least = max(self.dual_least, min(math.floor(tangent * (1 - 1e-12)), limit + 2**52))
        self._own = max(self._own, self.dual_least)
        self._proven = max(self._proven, self._own)
        return solution

    def _refuse(self, best: Solution) -> None:
        reached = self._problem.predicted(self._problem.ranks(best.choice))
        raise BudgetInfeasible(
            f"predicted loss: {self._most:g} nats/token asked, {reached:g} is the least within these budgets and constraints. "
            "Allow at least that.",
            achievable=[
                {
                    "metric": LOSS,
                    "limit": self._most,
                    "minimum": reached,
                    "unit": "nats/token",
                    "met": False,
                }
            ],
        )
