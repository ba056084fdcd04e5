"""The worth of every step of ``a3+``: ``python -m benchmarks.ablation [--models NAME ...] [--json FILE]``.

All variants of a model share moments, windows, ranks and shapes; only what is computed at them differs. Weights stay in
float32, so that rounding to a checkpoint's type is in none of the figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from math import exp
from pathlib import Path
from typing import Any

import torch

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.baselines import uniform
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from benchmarks.allocation import ROOT
from benchmarks.rows import Row, Rows, geometric
from benchmarks.subjects import Subject, subjects
from solvers.a3 import moments
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.feedback import compress_with_feedback
from solvers.a3.steps import A3, A3_PLUS, Steps
from solvers.weights import LayerWeights

KEEPS = ("0.9", "0.8", "0.6")
MODELS = ROOT / "benchmarks" / "results" / "trained"
GROUPS: dict[str, Steps] = {
    "a3": A3,
    "+mlp": Steps(mlp_order=True, mlp_refit=True),
    "+ov": Steps(ov_heads=True, ov_refit=True),
    "+qk": Steps(qk_metric=True, qk_gains=True),
    "one-shot": replace(A3_PLUS, feedback=False),
    "a3+": A3_PLUS,
}
SINGLES: dict[str, Steps] = {item.name: Steps(**{item.name: True}) for item in fields(Steps)}
VARIANTS = GROUPS | SINGLES
MOST = 0.7
"""The most that ``a3+`` may lose on any model, as a ratio to ``a3``; more is an exception that the table names."""
_BATCH = 8


class SolvedModel:
    """A model's layers under several variants; moments are collected once."""

    def __init__(self, subject: Subject, variants: Iterable[str] = VARIANTS) -> None:
        self.subject = subject
        self.steps = {name: VARIANTS[name] for name in variants}
        one_shot = {replace(steps, feedback=False) for steps in self.steps.values()}
        self._solutions: dict[Steps, list[LayerSolution]] = {steps: [] for steps in one_shot}
        source = subject.opened.source
        for index, layer_moments in enumerate(moments.by_layer(subject.opened, subject.fit.split(_BATCH))):
            for steps, solutions in self._solutions.items():
                solutions.append(solve_layer(source[index], layer_moments, steps))

    def layers(self, variant: str, ranks: Ranks) -> list[LayerWeights]:
        """All layers in float64 at these ranks."""
        steps = self.steps[variant]
        solutions = self._solutions[replace(steps, feedback=False)]

        def one_shot(index: int) -> LayerWeights:
            return solutions[index].compressed(**{c: ranks.of(c)[index] for c in COMPONENTS})

        if steps.feedback:
            return compress_with_feedback(self.subject.opened, self.subject.fit, one_shot)[0]
        return [one_shot(index) for index in range(len(solutions))]

    def rows(self, keep: str, ranks: Ranks) -> list[Row]:
        """One row a variant; ``same_as`` names an earlier variant whose weights are the very same."""
        costs = CostModel(self.subject.geometry)
        earlier: list[list[LayerWeights]] = []
        rows: list[Row] = []
        for variant in self.steps:
            layers = self.layers(variant, ranks)
            twin = next(
                (row for row, other in zip(rows, earlier, strict=True) if _equal(layers, other)), None
            )
            row = {
                "model": self.subject.name,
                "variant": variant,
                "keep": keep,
                "dense_nats": self.subject.dense_nats,
                "ranks": [ranks.of(c)[0] for c in COMPONENTS],
                "block_params": costs.total(Metric("block_params"), ranks),
                "dense_block_params": costs.total(Metric("block_params"), Ranks.dense(self.subject.geometry)),
                "stored": sum(map(_stored, layers)),
                "same_as": twin and twin["variant"],
                "rise_nats": twin["rise_nats"] if twin else self.subject.rise_of(layers),
            }
            rows.append(row)
            earlier.append(layers)
        return rows


_RESIDUAL = ("o_bias_D", "down_bias_D", "pairs")


def _stored(layer: LayerWeights) -> int:
    """Numbers in the tensors that count as block parameters."""
    return sum(
        value.numel()
        for name, value in vars(layer).items()
        if isinstance(value, torch.Tensor) and name not in _RESIDUAL and "norm" not in name
    )


def _equal(some: Sequence[LayerWeights], others: Sequence[LayerWeights]) -> bool:
    def equal(mine: Any, theirs: Any) -> bool:
        return torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine is theirs

    return all(
        equal(value, vars(theirs)[name])
        for mine, theirs in zip(some, others, strict=True)
        for name, value in vars(mine).items()
    )


def uniform_ranks(subject: Subject, keep: str) -> Ranks:
    """The largest single ratio within this fraction of the block parameters."""
    ranks = uniform(CostModel(subject.geometry), parse_budgets([f"block_params={keep}"]))
    assert ranks is not None
    return ranks


def rows_of(subject: Subject, variants: Iterable[str] = VARIANTS) -> list[Row]:
    """Every variant at every ratio."""
    solved = SolvedModel(subject, variants)
    return [row for keep in KEEPS for row in solved.rows(keep, uniform_ranks(subject, keep))]


def by_cell(rows: list[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """(ratio, model) -> variant -> row."""
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["keep"], row["model"]), {})[row["variant"]] = row
    return cells


def table(rows: list[Row]) -> str:
    """Markdown: rises of the step groups per ratio and model, and their geometric means over ``a3``."""
    cells = by_cell(rows)
    lines = [
        f"| kept | model (dense perplexity) | QK, OV, MLP | {' | '.join(GROUPS)} | a3+ / a3 |",
        "|---" * (len(GROUPS) + 4) + "|",
    ]
    exceptions: list[str] = []
    for keep in dict.fromkeys(keep for keep, _ in cells):
        at_keep = {model: cell for (cell_keep, model), cell in cells.items() if cell_keep == keep}
        for model, cell in at_keep.items():
            first = cell["a3"]
            ratio = cell["a3+"]["rise_nats"] / first["rise_nats"]
            shown = " | ".join(f"{cell[name]['rise_nats']:.4f}" for name in GROUPS)
            mark = f"{ratio:.2f}"
            if not ratio <= MOST:
                mark = f"**{ratio:.2f}**"
                exceptions.append(f"{model} at {float(keep):.0%}")
            lines.append(
                f"| {float(keep):.0%} | {model} ({exp(first['dense_nats']):.2f}) "
                f"| {', '.join(map(str, first['ranks']))} | {shown} | {mark} |"
            )
        means = [geometric([_over_a3(cell, name) for cell in at_keep.values()]) for name in GROUPS]
        shown = " | ".join(f"{mean:.2f} x" for mean in means)
        lines.append(f"| {float(keep):.0%} | *geometric mean over a3* | | {shown} | {means[-1]:.2f} |")
    lines += ["", f"`a3+` above {MOST} of `a3`: {', '.join(exceptions) or 'nowhere'}."]
    return "\n".join(lines)


def _over_a3(cell: dict[str, Row], variant: str) -> float:
    return cell[variant]["rise_nats"] / cell["a3"]["rise_nats"]


def steps_table(rows: list[Row]) -> str:
    """Markdown: each step alone, as a ratio to ``a3`` over the models that it changes."""
    cells = by_cell(rows)
    keeps = list(dict.fromkeys(keep for keep, _ in cells))
    head = " | ".join(f"{float(keep):.0%} kept: mean (least to most)" for keep in keeps)
    lines = [f"| step alone | models | {head} |", "|---" * (len(keeps) + 2) + "|"]
    for step in SINGLES:
        shown, models = [], set()
        for keep in keeps:
            at_keep = {
                model: cell
                for (cell_keep, model), cell in cells.items()
                if cell_keep == keep and step in cell
            }
            changed = {model: cell for model, cell in at_keep.items() if cell[step]["same_as"] != "a3"}
            models |= set(changed)
            ratios = [_over_a3(cell, step) for cell in changed.values()]
            shown.append(
                f"{geometric(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
            )
        lines.append(f"| `{step}` | {len(models)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def run(
    rows: Rows,
    work: Path,
    *,
    models: Path = MODELS,
    names: list[str] | None = None,
    variants: Sequence[str] = tuple(VARIANTS),
) -> None:
    """Add the rows of all models; ``work`` holds texts, ``models`` the two trained ones."""
    for subject in subjects(work, models, names):
        if not rows.has(model=subject.name):
            rows.add(rows_of(subject, variants))


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--models", nargs="+", help="names; all if absent")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the two trained models are kept")
    parser.add_argument("--json", type=Path, help="write the rows here, model by model")
    parser.add_argument("--resume", action="store_true", help="leave out the models that this file has")
    parser.add_argument("--groups", action="store_true", help="only groups of steps, not each step alone")
    options = parser.parse_args(argv)
    variants = tuple(GROUPS if options.groups else VARIANTS)
    rows = Rows(options.json, resume=options.resume)
    with tempfile.TemporaryDirectory() as work:
        run(rows, Path(work), models=options.out, names=options.models, variants=variants)
    sys.stdout.write(table(rows) + "\n\n" + steps_table(rows) + "\n")


if __name__ == "__main__":
    main()
