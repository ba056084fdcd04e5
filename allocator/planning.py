"""From a stored profile and budgets to a plan document: milliseconds, no torch, no store.

A plan names ranks for every component, proves how good they are for the profile's curves, and is named by its content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from allocator import baselines
from allocator.budgets import Budget, parse_budgets
from allocator.constraints import Constraints, Place, parse_constraints
from allocator.costs import CostModel, Ranks
from allocator.curves import Curve
from allocator.digests import digest
from allocator.errors import FieldError, InvalidInput
from allocator.geometry import COMPONENTS, Geometry
from allocator.latency import LatencyTable, table_of
from allocator.options import MOST_STATES, checked_solver
from allocator.prices import price_per
from allocator.program import Group, Row, Solution, check_feasible, solve

PLAN_SCHEMA = "rankalloc.plan/1"
OBJECTIVE = "sum of single-component KL to the dense model, nats/token"
OBJECTIVE_AROUND = (
    "KL to the dense model of the plan profiled around, plus the sum of single-component changes, nats/token"
)
ALLOCATIONS = ("ilp", "uniform")


def predicted_loss(curves: Sequence[Curve], ranks: Ranks, *, offset: float = 0.0) -> float:
    """The surrogate: the sum of single-component losses, nats/token, from ``curve_offset`` on."""
    losses = (curve.loss_at(ranks.of(curve.component)[curve.layer]) for curve in curves)
    return max(math.fsum([offset, *losses]), 0.0)


def curve_offset(profile: dict[str, Any], curves: Sequence[Curve]) -> float:
    """What to add to the sum of a profile's curves: 0 around the dense model; around a plan whatever makes the plan's own
    ranks come out at its measured loss.
    """
    around = profile.get("around")
    if around is None:
        return 0.0
    ranks = Ranks.from_layers(around["ranks"])
    return float(around["loss_nats"]) - math.fsum(
        curve.loss_at(ranks.of(curve.component)[curve.layer]) for curve in curves
    )


def plan_from_profile(
    profile: dict[str, Any],
    budgets: Sequence[str],
    *,
    curves: Sequence[Curve] | None = None,
    allocation: str = "ilp",
    constraints: Mapping[str, Sequence[str]] | None = None,
    latency: LatencyTable | None = None,
    program_solver: str = "highs",
    most_states: int = MOST_STATES,
    created_by: str = "default",
    time_limit_s: float = 60.0,
) -> dict[str, Any]:
    """The plan with the least predicted loss under all budgets at once.

    Args:
        profile: a profile document (``rankalloc.profile/1``).
        budgets: as people write them, see ``allocator.budgets``.
        curves: the profile's, if they have been read already.
        allocation: ``ilp`` for mixed ranks, ``uniform`` for the largest single ratio that fits.
        constraints: kind -> constraints as people write them, see ``allocator.constraints``.
        latency: what latency budgets are counted in.
        program_solver: ``highs`` or ``cbc``, for what our own bound and enumeration leave open.
        most_states: how much is enumerated before that solver is asked; 0: nothing.

    Raises:
        BudgetSyntax: a budget cannot be read.
        BudgetInfeasible: no ranks meet the budgets; says what each could reach.
        InvalidInput: unknown ``allocation``, or constraints that cannot be read or met.
    """
    if allocation not in ALLOCATIONS:
        allowed = " or ".join(ALLOCATIONS)
        raise InvalidInput(
            f"allocation: {allocation!r} is not {allowed}",
            fields=[FieldError("allocation", str(allocation), allowed)],
        )
    solver = checked_solver(program_solver, most_states)
    asked = question(profile, parse_budgets(budgets), constraints, latency, curves)
    if allocation == "ilp":
        solution = solve(
            asked.groups, asked.rows, solver=solver, most_states=most_states, time_limit_s=time_limit_s
        )
        return plan_document(
            asked,
            asked.ranks(solution.choice),
            allocation=allocation,
            certificate=certificate_of(solution),
            prices=solution.shadow_prices,
            created_by=created_by,
        )
    check_feasible(asked.groups, asked.rows)
    fitting = baselines.uniform(asked.costs, asked.budgets, asked.limits.allowed)
    assert fitting is not None, "the smallest uniform ranks are the smallest of all"
    return plan_document(asked, fitting, allocation=allocation, created_by=created_by)


@dataclass(frozen=True)
class Question:
    """A profile with budgets and constraints, read and made a program of."""

    profile: dict[str, Any]
    budgets: Sequence[Budget]
    costs: CostModel
    curves: Sequence[Curve]
    offset: float
    limits: Constraints
    groups: list[Group]
    rows: list[Row]

    def ranks(self, choice: Sequence[int]) -> Ranks:
        """The ranks that a choice of options stands for."""
        chosen = {
            place: self.limits.allowed[place][pick]
            for block, pick in zip(self.limits.blocks(), choice, strict=True)
            for place in block
        }
        layers = range(self.costs.geometry.layers)
        return Ranks(*(tuple(chosen[layer, c] for layer in layers) for c in COMPONENTS))

    def choice(self, ranks: Ranks) -> list[int]:
        """The choice of options that stands for allowed ranks."""
        return [
            self.limits.allowed[block[0]].index(ranks.of(block[0][1])[block[0][0]])
            for block in self.limits.blocks()
        ]

    def predicted(self, ranks: Ranks) -> float:
        """The surrogate's loss, nats/token."""
        return predicted_loss(self.curves, ranks, offset=self.offset)


def question(
    profile: dict[str, Any],
    budgets: Sequence[Budget],
    constraints: Mapping[str, Sequence[str]] | None = None,
    latency: LatencyTable | None = None,
    curves: Sequence[Curve] | None = None,
) -> Question:
    """Make the program of a profile; ``curves`` are the profile's, if they have been read already.

    Raises:
        InvalidInput: constraints that cannot be read or met; a latency budget without a table that has it.
    """
    costs = CostModel(Geometry.from_document(profile["model"]["geometry"]), latency)
    if curves is None:
        curves = [Curve.from_document(document) for document in profile["curves"]]
    options = {(curve.layer, curve.component): curve.ranks for curve in curves}
    limits = parse_constraints(constraints, costs.geometry, options)
    groups, rows = _program(curves, costs, budgets, limits)
    return Question(profile, budgets, costs, curves, curve_offset(profile, curves), limits, groups, rows)


def question_of(plan: dict[str, Any], profile: dict[str, Any]) -> Question:
    """The question that a plan answers, asked of a profile: its budgets and constraints as they were written."""
    budgets, constraints = written(plan)
    return question(profile, parse_budgets(budgets), constraints, table_of(plan))


def written(plan: dict[str, Any]) -> tuple[list[str], dict[str, list[str]]]:
    """A plan's budgets and constraints, as people write them."""
    constraints = {kind: texts for kind, texts in plan["constraints"].items() if kind != "steps"}
    return [budget["text"] for budget in plan["budgets"]], constraints


def certificate_of(solution: Solution) -> dict[str, Any]:
    """What is proved about a plan, bounds in nats/token."""
    return {
        "status": solution.status,
        "gap": solution.gap,
        "bound": solution.bound_nats,
        "independent_bound": solution.independent_bound_nats,
        "dual_bound": solution.dual_bound_nats,
        "unit": "nats/token",
        "proof": solution.proof,
        "warnings": list(solution.warnings),
        "solver": solution.solver,
        "most_states": solution.most_states,
        "time_s": round(solution.time_s, 4),
    }


def plan_document(
    asked: Question,
    ranks: Ranks,
    *,
    allocation: str,
    certificate: dict[str, Any] | None = None,
    prices: Sequence[float] | None = None,
    objective: str | None = None,
    baseline_budgets: Sequence[Budget] | None = None,
    created_by: str = "default",
) -> dict[str, Any]:
    """A plan document (``rankalloc.plan/1``) with its digest.

    Args:
        prices: nats per unit of every budget; None where nothing was proven.
        objective: what was minimised; default: the predicted loss.
        baseline_budgets: what the uniform ranks beside it have to meet; default: the plan's budgets.
    """
    profile, costs = asked.profile, asked.costs
    geometry = costs.geometry
    default = OBJECTIVE if profile.get("around") is None else OBJECTIVE_AROUND
    known: Sequence[float | None] = [None] * len(asked.budgets) if prices is None else prices
    document: dict[str, Any] = {
        "schema": PLAN_SCHEMA,
        "model": {key: profile["model"][key] for key in ("reference", "weights_sha256", "geometry")},
        "solver": profile["solver"],
        "objective": objective or default,
        "allocation": allocation,
        "constraints": {"steps": {c: geometry.step(c) for c in COMPONENTS}, **asked.limits.document},
        "budgets": [
            {
                **budget.document(costs),
                "text": budget.text,
                "used": costs.total(budget.metric, ranks),
                "binding": None if price is None else price > 0,
                "shadow_price": price,
                "shadow_price_text": (
                    None if price is None else price_per(budget.metric, price, budget.limit(costs))
                ),
            }
            for budget, price in zip(asked.budgets, known, strict=True)
        ],
        "ranks": ranks.layers(),
        "costs": costs.summary(ranks),
        "dense": costs.summary(Ranks.dense(geometry)),
        "predicted": {"loss_nats": asked.predicted(ranks)},
        "measured": None,
        "certificate": certificate,
        "baseline": _baselines(
            asked.curves,
            costs,
            asked.budgets if baseline_budgets is None else baseline_budgets,
            asked.offset,
            asked.limits,
        ),
        "profile_key": profile["key"],
        "created_by": created_by,
    }
    counted = [*asked.budgets, *(baseline_budgets or ())]
    timed = [budget.metric for budget in counted if budget.metric.name == "latency"]
    if timed and costs.latency is not None:
        places = [(metric.batch, metric.context, metric.phase) for metric in timed]
        document["latency_table"] = costs.latency.only(places)
    return {**document, "digest": plan_digest(document)}


def plan_digest(document: dict[str, Any]) -> str:
    """A plan's name: what was asked, of which model, on which profile, and the ranks; not when, by whom or how fast."""
    table = document.get("latency_table")
    return digest(
        {
            **({} if table is None else {"latency_table": table["digest"]}),
            "schema": document["schema"],
            "weights_sha256": document["model"]["weights_sha256"],
            "geometry": document["model"]["geometry"],
            "solver": document["solver"],
            "objective": document["objective"],
            "allocation": document["allocation"],
            "constraints": document["constraints"],
            "budgets": sorted(
                ({"metric": b["metric"], "limit": b["limit"]} for b in document["budgets"]),
                key=lambda b: b["metric"],
            ),
            "ranks": document["ranks"],
            "profile_key": document["profile_key"],
        }
    )


def _program(
    curves: Sequence[Curve], costs: CostModel, budgets: Sequence[Budget], limits: Constraints
) -> tuple[list[Group], list[Row]]:
    """A group for every component, or for all components that are tied together; options are the allowed ranks."""
    at = {(curve.layer, curve.component): curve for curve in curves}
    groups = []
    for block in limits.blocks():
        ranks = limits.allowed[block[0]]
        groups.append(
            Group(
                name=_name(block),
                losses=_block_losses([at[place] for place in block], ranks),
                costs=_option_costs(costs, budgets, block, ranks),
            )
        )
    rows = [
        Row(budget.metric.label, budget.limit(costs), costs.constant(budget.metric), budget.metric.unit)
        for budget in budgets
    ]
    return groups, rows


def _block_losses(curves: Sequence[Curve], ranks: tuple[int, ...]) -> tuple[float, ...]:
    """What each rank loses of a component, or of components tied together."""
    if len(curves) == 1 and curves[0].ranks == ranks:
        return curves[0].loss_nats
    return tuple(math.fsum(curve.loss_at(rank) for curve in curves) for rank in ranks)


def _option_costs(
    costs: CostModel, budgets: Sequence[Budget], block: Sequence[Place], ranks: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """What each rank of a component, or of components tied together, is charged to each budget."""
    return tuple(
        tuple(
            map(sum, zip(*(costs.charges(budget.metric, c, layer, ranks) for layer, c in block), strict=True))
        )
        for budget in budgets
    )


def refined_plan(
    plan: dict[str, Any], profile: dict[str, Any], ranks: Ranks, record: dict[str, Any]
) -> dict[str, Any]:
    """The plan document of refined ranks: the same request, other ranks, and what led to them in ``refinement``.

    It proves nothing of its own: the surrogate's certificate stays with the plan that was started from.
    """
    asked = question_of(plan, profile)
    start = {name: plan[name] for name in ("digest", "ranks", "predicted", "certificate")}
    document = {
        **plan,
        "budgets": [
            {**row, "used": asked.costs.total(budget.metric, ranks)}
            for row, budget in zip(plan["budgets"], asked.budgets, strict=True)
        ],
        "ranks": ranks.layers(),
        "costs": asked.costs.summary(ranks),
        "predicted": {"loss_nats": asked.predicted(ranks)},
        "certificate": None,
        "refinement": {**record, "start": start},
    }
    del document["digest"]
    return {**document, "digest": plan_digest(document)}


def _name(block: Sequence[Place]) -> str:
    (first, component), (last, _) = block[0], block[-1]
    return f"layer {first} {component}" if len(block) == 1 else f"layers {first} to {last} {component}"


def feasibility_program(
    costs: CostModel,
    budgets: Sequence[Budget],
    constraints: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[Group], list[Row]]:
    """The program with costs but no losses: enough to say, before anything is measured, whether budgets can be met.

    Raises:
        InvalidInput: constraints that cannot be read or met.
    """
    geometry = costs.geometry
    flat = [
        Curve(layer, c, tuple(ranks), (0.0,) * len(ranks), (), (0.0,) * len(ranks), ())
        for layer in range(geometry.layers)
        for c in COMPONENTS
        for ranks in [geometry.candidate_ranks(c)]
    ]
    return _program(flat, costs, budgets, parse_constraints(constraints, geometry))


def _baselines(
    curves: Sequence[Curve],
    costs: CostModel,
    budgets: Sequence[Budget],
    offset: float,
    limits: Constraints,
) -> dict[str, Any]:
    found = {
        "uniform": baselines.uniform(costs, budgets, limits.allowed),
        "uniform_kind": baselines.uniform_kind(
            costs, budgets, lambda ranks: predicted_loss(curves, ranks, offset=offset), limits.allowed
        ),
    }
    return {
        name: {
            "ranks": ranks.layers(),
            "costs": costs.summary(ranks),
            "predicted_loss_nats": predicted_loss(curves, ranks, offset=offset),
        }
        for name, ranks in found.items()
        if ranks is not None
    }
