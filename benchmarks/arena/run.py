"""``python -m benchmarks.arena``: every rule's ranks on the same curves, solvers and budgets, and what they lose."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import question
from allocator.plan.refinement import refine
from benchmarks import allocation
from benchmarks.allocation import Case
from benchmarks.arena import rules
from benchmarks.arena.measured import EFFORT, Losses, Model
from benchmarks.arena.picture import picture
from benchmarks.arena.problem import OutOfReach, Problem
from benchmarks.arena.table import table
from benchmarks.profiled import Home
from benchmarks.rows import Row, Rows

BUDGETS = (
    ("block_params=0.9",),
    ("block_params=0.8",),
    ("block_params=0.6",),
    ("block_params=0.8", "kv_bytes_per_token=0.75"),
)
EVALUATIONS = 64
"""Evaluations that refinement may spend: the default of ``rankalloc compress``."""


def measure(rows: Rows, case: Case, folder: Path, budgets: Iterable[Sequence[str]] = BUDGETS) -> None:
    """Add what ``rows`` lack of a model, profiled in ``folder``."""
    names = [rule.name for rule in rules.RULES] + [rules.REFINED]
    missing = [
        list(budget_set)
        for budget_set in budgets
        if not all(rows.has(model=case.name, budgets=list(budget_set), rule=name) for name in names)
    ]
    if not missing:
        return
    with closing(Home(case, folder)) as home:
        model = Model(home.profile(EFFORT), case)
        for budget_set in missing:
            _cell(rows, case.name, model, budget_set)


def _cell(rows: Rows, name: str, model: Model, budgets: list[str]) -> None:
    """All rules under one set of budgets, ours first: every other one is compared with it window by window."""
    problem = Problem(
        model.costs,
        parse_budgets(budgets),
        model.curves,
        signals=model.signals,
        measure=model.one_shot,
        windows=model.windows,
    )
    started = time.perf_counter()
    ranks, record = refined(problem, model)
    spent = time.perf_counter() - started
    ours = model.delivered(ranks)
    head = {"model": name, "budgets": budgets, "dense_nats": model.dense_nats}
    if not rows.has(model=name, budgets=budgets, rule=rules.REFINED):
        extra = {"evaluations": record["evaluations"], "refinement": record["stopped"]}
        own_row = {"rule": rules.REFINED, "kind": "ours", **row_of(problem, ranks, ours, ours), **extra}
        rows.add([{**head, **own_row, "seconds": round(spent, 3)}])
    for rule in rules.RULES:
        if rows.has(model=name, budgets=budgets, rule=rule.name):
            continue
        problem.spent, started = 0, time.perf_counter()
        row: Row = {**head, "rule": rule.name, "kind": rule.kind}
        try:
            ranks = rule.choose(problem)
        except OutOfReach as error:
            rows.add([{**row, "error": str(error)}])
            continue
        row |= {"seconds": round(time.perf_counter() - started, 3), "windows": problem.spent}
        rows.add([{**row, **row_of(problem, ranks, model.delivered(ranks), ours)}])


def refined(problem: Problem, model: Model) -> tuple[Ranks, dict[str, Any]]:
    """The plan that ``rankalloc compress`` delivers: refined where that is better with error feedback too."""
    start = rules.RULES[-1].choose(problem)
    program = question(model.profile, problem.budgets)
    ranks, record = refine(program, start, model.measuring(), evaluations=EVALUATIONS)
    document = record.document()
    if ranks != start:
        before, after = (float(model.delivered(candidate).kl.mean()) for candidate in (start, ranks))
        if after >= before:
            ranks, document["stopped"] = start, "no better as delivered, with error feedback"
    return ranks, document


def row_of(problem: Problem, ranks: Ranks, losses: Losses, ours: Losses) -> Row:
    """Counts and losses of a rule's ranks, and how far they are behind ours on the same windows.

    Raises:
        AssertionError: a budget is exceeded.
    """
    used = count(problem.costs, problem, ranks)
    mean, stderr = mean_stderr(losses.kl)
    behind = {
        f"{name}_behind{part}_nats": value
        for name, mine, theirs in (("kl", ours.kl, losses.kl), ("rise", ours.rise, losses.rise))
        for part, value in zip(("", "_stderr"), mean_stderr(theirs - mine), strict=True)
    }
    return {
        "ranks": ranks.layers(),
        "used": used,
        "predicted_nats": problem.predicted(ranks),
        "kl_nats": mean,
        "kl_stderr_nats": stderr,
        "rise_nats": float(losses.rise.mean()),
        **behind,
    }


def count(costs: CostModel, problem: Problem, ranks: Ranks) -> dict[str, int]:
    """Each budget's use, recounted in integers from the ranks and held against its limit."""
    used = {budget.metric.label: costs.total(budget.metric, ranks) for budget in problem.budgets}
    for budget in problem.budgets:
        assert used[budget.metric.label] <= budget.limit(costs), f"{budget.text} exceeded: {used}"
    return used


def mean_stderr(values: torch.Tensor) -> tuple[float, float]:
    """Mean over windows and its standard error."""
    per_window = values.tolist()
    spread = statistics.stdev(per_window) / len(per_window) ** 0.5 if len(per_window) > 1 else 0.0
    return statistics.fmean(per_window), spread


def run(rows: Rows, work: Path, cases: Iterable[Case]) -> None:
    """Add what ``rows`` lack of these models; stores go to ``work``."""
    for case in cases:
        measure(rows, case, work / "homes" / case.name)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a model folder; absent: the benchmarks' models")
    parser.add_argument("--calibration", type=Path, help="text to profile and fit on")
    parser.add_argument("--evaluation", type=Path, help="text that nothing has seen before")
    parser.add_argument("--models", nargs="+", help="names of the benchmarks' models; all if absent")
    parser.add_argument("--json", type=Path, help="write the rows here, as they come")
    parser.add_argument("--resume", action="store_true", help="leave out what this file has")
    parser.add_argument("--picture", type=Path, help="write the picture here (SVG)")
    options = parser.parse_args(argv)
    if options.model and not (options.calibration and options.evaluation):
        parser.error("a model folder needs --calibration and --evaluation")
    rows = Rows(options.json, resume=options.resume)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if options.model:
            folder = options.model.resolve()
            cases = [Case(folder.name, folder, options.calibration, options.evaluation)]
        else:
            cases = [c for c in allocation.cases(work) if not options.models or c.name in options.models]
        run(rows, work, cases)
    if options.picture:
        options.picture.write_text(picture(rows), encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")
