"""Ranks and weight bits chosen together, against either alone and one after the other, in the same bytes of weights.

``python -m benchmarks.run bits`` fills docs/benchmarks/results.md. The profile is of effort ``fast`` and has quantized cuts;
every row is evaluated as torchao holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from allocator.base.errors import BudgetInfeasible
from allocator.plan.ask.budgets import parse_budget, parse_budgets
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.problem import question
from benchmarks.allocation import EXAMPLES, cases
from benchmarks.profiled import Home, Model
from benchmarks.rows import Row, Rows
from solvers.quantization import packing_steps

EFFORT = "fast"
KEEPS = ("0.5", "0.35", "0.25")
"""Shares of the dense model's bytes, embeddings and head included, which keep their type."""
MEMORY = "memory={}@context=1"
RULES = {
    "ranks": "mixed ranks, own type",
    "uniform": "uniform rank and bits",
    "after": "mixed ranks, then int4",
    "both": "**mixed ranks and bits**",
}


def run(rows: Rows, work: Path) -> None:
    """The bundled models at all sizes; rows that are there already are left as they are."""
    for case in cases(work):
        if case.name not in EXAMPLES or all(rows.has(model=case.name, kept=keep) for keep in KEEPS):
            continue
        home = Home(case, work / f"{case.name}-home")
        try:
            profile = home.profile(EFFORT, bits=[8, 4])
            model = Model(profile, case)
            if not rows.has(model=case.name, kept="1"):
                rows.add(rounded_rows(model, case.name))
            for keep in KEEPS:
                if not rows.has(model=case.name, kept=keep):
                    rows.add(
                        measured(model, case.name, keep, rule, ranks, profile.document)
                        for rule, ranks in ranks_by_rule(model.costs, profile.document, keep)
                    )
        finally:
            home.close()


def rounded_rows(model: Model, name: str) -> Iterator[Row]:
    """The dense model in eight and in four bits: nothing chosen."""
    dense = Ranks.dense(model.geometry)
    for bits in (8, 4):
        ranks = dense.with_bits([[bits] * len(COMPONENTS)] * model.geometry.layers)
        yield measured(model, name, "1", f"int{bits}", ranks, None)


def ranks_by_rule(costs: CostModel, profile: Profile, keep: str) -> Iterator[tuple[str, Ranks | None]]:
    """Rule -> what it makes of the budget; None where it cannot meet it."""
    budget = MEMORY.format(keep)
    limit = parse_budget(budget).limit(costs)
    steps = packing_steps(heads=costs.geometry.heads, kv_heads=costs.geometry.kv_heads)
    packed = MEMORY.format(limit) + ",weights=int4packed"
    align = {"align": [f"{component}={step}" for component, step in steps.items()]}
    makers = {
        "ranks": lambda: planned(profile, budget, bits=()),
        "uniform": lambda: question(profile, parse_budgets([budget])).uniform_bits(),
        "after": lambda: in_four(planned(profile, packed, bits=(), constraints=align)),
        "both": lambda: planned(profile, budget),
    }
    for rule, make in makers.items():
        try:
            yield rule, make()
        except BudgetInfeasible:
            yield rule, None


def planned(profile: Profile, budget: str, **options: Any) -> Ranks:
    return plan_from_profile(profile, [budget], **options).chosen


def in_four(ranks: Ranks) -> Ranks:
    return ranks.with_bits([[4] * len(COMPONENTS)] * len(ranks.qk))


def measured(
    model: Model, name: str, keep: str, rule: str, ranks: Ranks | None, profile: Profile | None
) -> Row:
    """Bytes and losses of one rule's choice; ``predicted_nats`` where the curves have something to say."""
    row: Row = {"model": name, "kept": keep, "rule": rule, "ranks": ranks and ranks.layers()}
    if ranks is None:
        return row
    layers = model.delivered(ranks)
    memory = parse_budget(MEMORY.format("1")).metric
    predicted = None
    if profile is not None:
        predicted = question(profile, parse_budgets([MEMORY.format("1")])).predicted(ranks)
    return {
        **row,
        "bytes": model.costs.total(memory, ranks),
        "share": model.costs.total(memory, ranks) / model.costs.dense(memory),
        "predicted_nats": predicted,
        "measured_nats": model.loss(layers),
        "rise_nats": model.rise(layers),
    }


def table(rows: list[Row]) -> str:
    """Markdown: what each rule loses at each share of the bytes, and which bits the joint plan chose."""
    lines = [
        "| model | bytes kept | | used | predicted | measured | evaluation rise | components in own type, int8, int4 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    labels = {"int8": "all int8, nothing cut", "int4": "all int4, nothing cut", **RULES}
    for row in rows:
        share = "-" if row["kept"] == "1" else f"{float(row['kept']):.0%}"
        head = f"| {row['model']} | {share} | {labels[row['rule']]} "
        if row["ranks"] is None:
            lines.append(f"{head}| out of reach | | | | |")
            continue
        bits = [layer.get("bits", {}).get(c) for layer in row["ranks"] for c in COMPONENTS]
        counts = ", ".join(str(bits.count(width)) for width in (None, 8, 4))
        predicted = "-" if row["predicted_nats"] is None else f"{row['predicted_nats']:.4f}"
        lines.append(
            f"{head}| {row['share']:.1%} | {predicted} | {row['measured_nats']:.4f} | {row['rise_nats']:.4f} | {counts} |"
        )
    return "\n".join(lines)
