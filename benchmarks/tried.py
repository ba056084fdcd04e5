"""Attempts to improve on ``a3+``: ``python -m benchmarks.tried [--models NAME ...] [--json FILE] [--resume]``.

Each variant differs from ``a3+`` in one thing, at the same ranks, windows and shapes, once one-shot and once with feedback:

* ``fisher ov``, ``fisher mlp``, ``fisher``: bases of the values, order of the neurons, or both chosen by the output error in
  the metric of the model's loss (``benchmarks.fisher``).
* ``hybrid``: heads that are rotated whole keep some pairs and have the rest of their rank unrotated (``benchmarks.hybrid``).
* ``no intercept``: models whose o_proj or down_proj has a bias, refitted on plain instead of centred moments, the bias as it
  was. With feedback, only the one-shot solutions that it starts from are without: its own ridge problems keep theirs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from benchmarks.ablation import KEEPS, MODELS, uniform_ranks
from benchmarks.fisher import fisher, sampled, solve_weighed
from benchmarks.hybrid import QKHybrid, solve_hybrid
from benchmarks.hybrid_rows import applies, heads_by_layer
from benchmarks.rows import Row, Rows, geometric
from benchmarks.subjects import Subject, subjects
from solvers.a3 import moments
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.feedback import compress_with_feedback
from solvers.a3.qk_gains import QKGains
from solvers.a3.steps import A3_PLUS
from solvers.weights import LayerWeights

BASE = "a3+"
VARIANTS = ("fisher ov", "fisher mlp", "fisher", "hybrid", "no intercept")
ONE_SHOT = replace(A3_PLUS, feedback=False)
_BATCH = 8
_BIASES = ("o_bias_D", "down_bias_D")

OneShot = Callable[[int], LayerWeights]


class Tried:
    """A model's layers, solved as ``a3+`` does and in every other way that changes something in it."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        opened, batches = subject.opened, subject.fit.split(_BATCH)
        weights = fisher(opened, sampled(subject.fit))
        rows = heads_by_layer(opened, batches) if applies(opened) else None
        ranks = sorted({rank for keep in KEEPS for rank in uniform_ranks(subject, keep).qk})
        self.plain: list[LayerSolution] = []
        self.weighed: list[LayerSolution] = []
        self.hybrids: list[dict[int, QKHybrid | QKGains]] = []
        for index, layer in enumerate(moments.by_layer(opened, batches)):
            plain = solve_layer(opened.source[index], layer, ONE_SHOT)
            self.plain.append(plain)
            self.weighed.append(solve_weighed(opened.source[index], layer, ONE_SHOT, weights[index], plain))
            if rows is not None:
                assert isinstance(plain.qk, QKGains)
                self.hybrids.append(solve_hybrid(layer, next(rows), plain.qk, ranks))

    def variants(self, ranks: Ranks) -> dict[str, OneShot]:
        """Name -> one-shot solution of a layer at these ranks; ``a3+`` first, what changes nothing left out."""
        plain, weighed = self.plain, self.weighed
        solutions: dict[str, OneShot] = {
            BASE: lambda n: plain[n].compressed(**_layer_ranks(ranks, n)),
            "fisher ov": lambda n: replace(plain[n], ov=weighed[n].ov).compressed(**_layer_ranks(ranks, n)),
            "fisher mlp": lambda n: replace(plain[n], mlp=weighed[n].mlp).compressed(
                **_layer_ranks(ranks, n)
            ),
            "fisher": lambda n: weighed[n].compressed(**_layer_ranks(ranks, n)),
        }
        if self.hybrids:
            solutions["hybrid"] = lambda n: self._hybrid(ranks, n)
        if any(vars(layer)[name] is not None for layer in self.subject.opened.source for name in _BIASES):
            solutions["no intercept"] = lambda n: _without_intercept(plain[n], ranks, n)
        return solutions

    def _hybrid(self, ranks: Ranks, index: int) -> LayerWeights:
        ranks_at = _layer_ranks(ranks, index)
        rank = ranks_at.pop("qk")
        cut = self.plain[index].compressed(**ranks_at)
        return self.hybrids[index][rank].apply(cut, rank) if rank < cut.qk_rank else cut

    def rows(self, keep: str, ranks: Ranks) -> list[Row]:
        """Every variant, one-shot and with feedback."""
        rows = []
        for variant, one_shot in self.variants(ranks).items():
            for feedback in (False, True):
                if feedback:
                    layers, _ = compress_with_feedback(self.subject.opened, self.subject.fit, one_shot)
                else:
                    layers = [one_shot(index) for index in range(len(self.plain))]
                row: Row = {
                    "model": self.subject.name,
                    "variant": variant,
                    "feedback": feedback,
                    "keep": keep,
                    "dense_nats": self.subject.dense_nats,
                    "rise_nats": self.subject.rise_of(layers),
                }
                if variant == "hybrid":
                    row["pairs"] = [layer.pairs.shape[1] for layer in layers if layer.pairs is not None]
                    row["qk"] = list(ranks.qk)
                rows.append(row)
        return rows


def _layer_ranks(ranks: Ranks, index: int) -> dict[str, int]:
    return {component: ranks.of(component)[index] for component in COMPONENTS}


def _without_intercept(solution: LayerSolution, ranks: Ranks, index: int) -> LayerWeights:
    """Solutions centre their moments where there is a bias: none is shown to them, and it is put back afterwards."""
    dense = solution.dense
    bare = replace(solution, dense=replace(dense, o_bias_D=None, down_bias_D=None))
    return replace(
        bare.compressed(**_layer_ranks(ranks, index)), o_bias_D=dense.o_bias_D, down_bias_D=dense.down_bias_D
    )


def rows_of(subject: Subject) -> list[Row]:
    """Every variant at every ratio."""
    tried = Tried(subject)
    return [row for keep in KEEPS for row in tried.rows(keep, uniform_ranks(subject, keep))]


def table(rows: list[Row]) -> str:
    """Markdown: rises as ratios to ``a3+``, one-shot to one-shot and feedback to feedback; below 1 is better than ``a3+``."""
    rises = {(r["variant"], r["feedback"], r["keep"], r["model"]): r["rise_nats"] for r in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [
        f"| variant | kept | refits | {' | '.join(models)} | geometric mean | better than a3+ |",
        "|---" * (len(models) + 5) + "|",
    ]
    for variant in VARIANTS:
        for keep in dict.fromkeys(row["keep"] for row in rows):
            for feedback in (False, True):
                ratios = {
                    model: rises[variant, feedback, keep, model] / rises[BASE, feedback, keep, model]
                    for model in models
                    if (variant, feedback, keep, model) in rises
                }
                if not ratios:
                    continue
                shown = " | ".join(f"{ratios[model]:.2f}" if model in ratios else "-" for model in models)
                better = sum(ratio < 1 for ratio in ratios.values())
                lines.append(
                    f"| {variant} | {float(keep):.0%} | {'feedback' if feedback else 'one-shot'} | {shown} "
                    f"| {geometric(list(ratios.values())):.3f} | {better} of {len(ratios)} |"
                )
    return "\n".join(lines)


def run(rows: Rows, work: Path, *, models: Path = MODELS, names: list[str] | None = None) -> None:
    """Add the rows of all models; ``work`` holds texts, ``models`` the two trained ones."""
    for subject in subjects(work, models, names):
        if not rows.has(model=subject.name):
            rows.add(rows_of(subject))


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description=__doc__)
    parser.add_argument("--models", nargs="+", help="names; all if absent")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the two trained models are kept")
    parser.add_argument("--json", type=Path, help="write the rows here, model by model")
    parser.add_argument("--resume", action="store_true", help="leave out the models that this file has")
    options = parser.parse_args(argv)
    rows = Rows(options.json, resume=options.resume)
    with tempfile.TemporaryDirectory() as work:
        run(rows, Path(work), models=options.out, names=options.models)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
