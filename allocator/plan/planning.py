"""From a stored profile and budgets to a plan document: milliseconds, no torch, no store.

A plan names ranks for every component, and bits where the profile has measured some, proves how good they are for the profile's
curves, and is named by its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan import baselines
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.ask.choices import ALLOCATIONS, ILP
from allocator.plan.documents.plan import PLAN_SCHEMA, Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.prices import price_per
from allocator.plan.program.enumeration import MOST_STATES
from allocator.plan.program.highs import SOLVER
from allocator.plan.program.problem import Question, question
from allocator.plan.program.solve import Solution, check_feasible, solve

OBJECTIVE = "sum of single-component KL to the dense model, nats/token"
OBJECTIVE_AROUND = (
    "KL to the dense model of the plan profiled around, plus the sum of single-component changes, nats/token"
)


def plan_from_profile(
    profile: Profile,
    budgets: Sequence[str],
    *,
    allocation: str = ILP,
    constraints: Mapping[str, Sequence[str]] | None = None,
    latency: LatencyTable | None = None,
    bits: Sequence[int] | None = None,
    latents: bool | None = None,
    most_states: int = MOST_STATES,
    created_by: str = "default",
    time_limit_s: float = 60.0,
) -> Plan:
    """The plan with the least predicted loss under all budgets at once.

    Args:
        budgets: as people write them, see ``allocator.plan.ask.budgets``.
        allocation: ``ilp`` for mixed ranks, ``uniform`` for the largest single ratio that fits, in the bits that lose least.
        constraints: kind -> constraints as people write them, see ``allocator.plan.ask.constraints``.
        latency: what latency budgets are counted in.
        bits: which of those that the profile has measured may be used beside the checkpoint's own type; default: all.
        latents: whether queries and values may be made of latents where that pays; default: where the profile knows what that
            loses and the target computes it.
        most_states: how much is enumerated before HiGHS is asked; 0: nothing.

    Raises:
        BudgetSyntax: a budget cannot be read.
        BudgetInfeasible: no ranks meet the budgets; says what each could reach.
        InvalidInput: unknown ``allocation``, constraints that cannot be read or met, or bits that were not measured.
    """
    if allocation not in ALLOCATIONS:
        raise InvalidInput.of("allocation", allocation, " or ".join(ALLOCATIONS))
    problem = question(profile, parse_budgets(budgets), constraints, latency, bits, latents)
    if allocation == ILP:
        solution = solve(problem.groups, problem.rows, most_states=most_states, time_limit_s=time_limit_s)
        return plan_document(
            problem,
            problem.ranks(solution.choice),
            allocation=allocation,
            certificate=certificate_of(solution),
            prices=solution.shadow_prices,
            created_by=created_by,
        )
    check_feasible(problem.groups, problem.rows)
    of_heads, fitting = problem.of_heads, None
    if problem.bits:
        fitting = problem.uniform_bits()
    elif all(of_heads.values()):
        fitting = baselines.uniform(problem.costs, problem.budgets, of_heads)
    if fitting is None:
        allowed = "ilp: the budgets need bits, or latents, that not all components have at one ratio"
        raise InvalidInput.of("allocation", allocation, allowed, "uniform meets them at no ratio; use")
    return plan_document(problem, fitting, allocation=allocation, created_by=created_by)


def question_of(plan: Plan, profile: Profile) -> Question:
    """The question that a plan answers, asked of a profile: its budgets and constraints as they were written."""
    budgets, latents = parse_budgets(plan.budget_texts), any(getattr(plan, form) for form in LATENTS)
    return question(
        profile, budgets, plan.constraints.written, plan.latency_table, plan.bits, latents=latents
    )


def certificate_of(solution: Solution) -> dict[str, Any]:
    """The certificate of a solution, bounds in nats/token."""
    return {
        "status": solution.status,
        "gap": solution.gap,
        "bound": solution.bound_nats,
        "independent_bound": solution.independent_bound_nats,
        "dual_bound": solution.dual_bound_nats,
        "unit": "nats/token",
        "proof": solution.proof,
        "warnings": list(solution.warnings),
        "solver": SOLVER,
        "most_states": solution.most_states,
        "time_s": round(solution.time_s, 4),
    }


def plan_document(
    problem: Question,
    ranks: Ranks,
    *,
    allocation: str,
    certificate: dict[str, Any] | None = None,
    prices: Sequence[float] | None = None,
    objective: str | None = None,
    created_by: str = "default",
) -> Plan:
    """The plan of these ranks, named by its content.

    Args:
        prices: nats per unit of every budget; None where nothing was proven.
        objective: what was minimised; default: the predicted loss.
    """
    profile, costs = problem.profile, problem.costs
    geometry = costs.geometry
    default = OBJECTIVE if profile.around is None else OBJECTIVE_AROUND
    row_prices: Sequence[float | None] = [None] * len(problem.budgets) if prices is None else prices
    document: dict[str, Any] = {
        "schema": PLAN_SCHEMA,
        "model": profile.model,
        "solver": profile.solver,
        "objective": objective or default,
        "allocation": allocation,
        "constraints": {"steps": {c: geometry.step(c) for c in COMPONENTS}, **problem.limits.document},
        **({"bits": list(problem.bits)} if problem.bits else {}),
        **dict.fromkeys(problem.latents, True),
        "budgets": [
            {
                **budget.document(costs),
                "text": budget.text,
                "understood": budget.understood(costs),
                "used": costs.total(budget.metric, ranks),
                "binding": None if price is None else price > 0,
                "shadow_price": price,
                "shadow_price_text": (
                    None if price is None else price_per(budget.metric, price, budget.limit(costs))
                ),
            }
            for budget, price in zip(problem.budgets, row_prices, strict=True)
        ],
        "ranks": ranks.layers(),
        "costs": costs.summary(ranks),
        "dense": costs.summary(Ranks.dense(geometry)),
        "predicted": {"loss_nats": problem.predicted(ranks)},
        "measured": None,
        "certificate": certificate,
        "baseline": _baselines(problem, ranks),
        "profile_key": profile.key,
        "created_by": created_by,
        "digest": "",
    }
    timed = [budget.metric for budget in problem.budgets if budget.metric.kind.timed]
    if timed and costs.latency is not None:
        places = [(metric.batch, metric.context, metric.phase) for metric in timed]
        document["latency_table"] = costs.latency.only(places)
    return Plan.model_validate(document).named()


def refined_plan(plan: Plan, profile: Profile, ranks: Ranks, record: dict[str, Any]) -> Plan:
    """The plan of refined ranks: the same request, other ranks, and what led to them in ``refinement``.

    It proves nothing of its own: the surrogate's certificate stays with the plan that was started from.
    """
    problem = question_of(plan, profile)
    start = {name: getattr(plan, name) for name in ("digest", "ranks", "predicted", "certificate")}
    return plan.replaced(
        budgets=tuple(
            row.replaced(used=problem.costs.total(budget.metric, ranks))
            for row, budget in zip(plan.budgets, problem.budgets, strict=True)
        ),
        ranks=ranks.layers(),
        costs=problem.costs.summary(ranks),
        predicted={"loss_nats": problem.predicted(ranks)},
        certificate=None,
        refinement={**record, "start": start},
    ).named()


def _baselines(problem: Question, ranks: Ranks) -> dict[str, Any]:
    """Uniform ranks within the same budgets; for a plan with bits also the best uniform ones in uniform bits."""
    costs, budgets, allowed = problem.costs, problem.budgets, problem.of_heads
    if not all(allowed.values()):
        return {}  # a constraint asks for a latent, which no single ratio of heads is
    uniforms = {
        baselines.UNIFORM_RATIO: baselines.uniform(costs, budgets, allowed),
        baselines.UNIFORM_KIND: baselines.uniform_kind(costs, budgets, problem.predicted, allowed),
    }
    if ranks.bits:
        uniforms[baselines.UNIFORM_BITS] = problem.uniform_bits()
    return {
        name: {
            "ranks": uniform_ranks.layers(),
            "costs": costs.summary(uniform_ranks),
            "predicted_loss_nats": problem.predicted(uniform_ranks),
        }
        for name, uniform_ranks in uniforms.items()
        if uniform_ranks is not None
    }
