"""Do cross terms help? ``python -m benchmarks.cross_terms [--models NAME ...]``: random plans, predicted with and without them.

The products g . d of all cuts on the same tokens give 1/2 E[(sum of them)^2] for a whole plan; without the cross terms it is
the sum of the single losses. Both are compared with the one-shot KL of the whole model, on other windows of the same text.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.profiling.gradients import predicted_losses
from allocator.profiling.measure import Variant, measure_layer
from benchmarks.allocation import Case, cases
from solvers.a3 import moments
from solvers.a3.compress import LayerSolution, Part, solve_layer
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.model.surgery import OpenModel, open_model
from solvers.texts.text import read_text
from solvers.weights import LayerWeights

MODELS = ("pylm-llama", "babyllama361")
SHARES = (0.3, 0.45, 0.6, 0.7, 0.8, 0.87, 0.93)
"""Shares of the full rank at which cuts are predicted and from which plans are drawn."""
WINDOWS, PLANS, WINDOW = 16, 24, 256


@dataclass(frozen=True)
class Outcome:
    """One plan, nats/token."""

    by_sum: float
    with_cross_terms: float
    measured: float


def outcomes(case: Case) -> list[Outcome]:
    """``PLANS`` random plans, every other one of deeper cuts."""
    opened = open_model(reading.load(reading.inspect(case.folder), dtype=None))
    text = read_text(case.calibration, case.folder, window=WINDOW, what="calibration")
    predicting, measuring = text.measure(2 * WINDOWS).split(WINDOWS)
    solutions = [
        solve_layer(opened.source[index], layer_moments, A3_PLUS)
        for index, layer_moments in enumerate(moments.by_layer(opened, text.fit(192).split(8)))
    ]
    dense = solutions[0].dense
    full: dict[Component, int] = {"qk": dense.qk_rank, "ov": dense.ov_rank, "mlp": dense.mlp_rank}
    ranks: dict[Part, list[int]] = {
        c: sorted({max(2, int(n * share) // 2 * 2) for share in SHARES}) for c, n in full.items()
    }
    rows: list[torch.Tensor] = []
    places: dict[tuple[int, Part, int], int] = {}
    for layer, components in predicted_losses(
        opened,
        predicting,
        dict.fromkeys(range(len(solutions)), ranks),
        solutions.__getitem__,
        labels=4,
        seed=0,
        dtype=torch.float32,
    ):
        for component, predicted in components.items():
            for spot, rank in enumerate(ranks[component]):
                places[layer, component, rank] = len(rows)
                rows.append(predicted.projections_rn[spot])
    products = torch.stack(rows).double()
    gram = (products @ products.T / (2 * products.shape[1])).numpy()
    chance, results = random.Random(0), []
    for number in range(PLANS):
        smallest_share = (0.9, 0.8)[number % 2] - 0.35
        plan = [
            {
                c: chance.choice([r for r in ranks[c] if r >= smallest_share * full[c]] + [full[c]] * 2)
                for c in COMPONENTS
            }
            for _ in solutions
        ]
        indices = [
            places[layer, c, rank]
            for layer, row in enumerate(plan)
            for c, rank in row.items()
            if rank < full[c]
        ]
        results.append(
            Outcome(
                float(gram[indices, indices].sum()),
                float(gram[np.ix_(indices, indices)].sum()),
                _measured(opened, solutions, plan, measuring),
            )
        )
    return results


def _measured(
    opened: OpenModel,
    solutions: Sequence[LayerSolution],
    plan: Sequence[dict[Component, int]],
    windows: torch.Tensor,
) -> float:
    def weights(layer: int) -> LayerWeights:
        return solutions[layer].compressed(**plan[layer]).to(dtype=torch.float32)

    last = len(solutions) - 1
    ((values,),) = measure_layer(
        opened, last, {0: (windows, [Variant("plan", 0, weights(last))])}, surroundings=weights
    ).values()
    return sum(values) / len(values)


def table(results: dict[str, list[Outcome]]) -> str:
    """Markdown: rank correlation with the measured KL and the spread of log ratios, without and with cross terms."""
    lines = [
        "| model | plans | Spearman, sums | with cross terms | sd of log ratio, sums | with cross terms |",
        "|---" * 6 + "|",
    ]
    for model, plans in results.items():
        sums, cross, measured = np.array([list(vars(plan).values()) for plan in plans]).T
        cells = [f"{spearmanr(predicted, measured).statistic:.3f}" for predicted in (sums, cross)]
        cells += [f"{np.log(measured / predicted).std():.0%}" for predicted in (sums, cross)]
        lines.append(f"| {model} | {len(plans)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cross_terms", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of benchmarks.allocation")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        results = {case.name: outcomes(case) for case in cases(Path(work)) if case.name in options.models}
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
