"""Losses of queries of a latent, predicted from gradients and measured, in single layers of a model that people know:
``python -m benchmarks.real_latents [--model gemma3]``.

Whole heads of normalized queries cannot be cut (``docs/reference/families.md``), latents leave them whole. Every latent is put
into its layer alone, and the KL of the whole model to the dense one is measured on the tokens of the calibration text that the
prediction was made on.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

from allocator.methods.registry import METHODS
from allocator.plan.model.precision import LATENT
from allocator.profiling.divergence import DenseDistribution
from allocator.profiling.gradients import predicted_losses
from benchmarks.real import Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Row, Rows
from solvers.a3 import moments
from solvers.a3.compress import LayerSolution, in_float64
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored
from solvers.model.surgery import open_model
from solvers.texts.text import read_text
from tests.support.cuts import geometry_of

METHOD = METHODS["a3+latent"]
WINDOW, FIT, MEASURED = 256, 8192, 2048
"""Tokens: of a window, of the moments, of losses."""
LABELS = 4
LAYERS = (0.2, 0.5, 0.8)
"""Layers, as shares of the model's depth."""
RANKS = (0.25, 0.5, 1.0)
"""Ranks, as shares of the largest that a latent may have."""


def measure(rows: Rows, run: Run) -> None:
    """Add what is missing of a model: every latent's loss, predicted and measured, in nats/token."""
    if rows.has(model=run.case.name):
        return
    inspected = reading.inspect(run.case.folder)
    opened, dtype = open_model(reading.load(inspected)), reading.storage_dtype(inspected)
    geometry = geometry_of(opened, dtype)
    ranks = METHOD.latent_ranks(geometry)[LATENT]
    text = read_text(run.case.calibration, run.case.folder, window=WINDOW, what="calibration")
    windows = text.measure(MEASURED // WINDOW)
    layers = sorted({int(share * geometry.layers) for share in LAYERS})
    tried_ranks = sorted({ranks[max(0, round(share * len(ranks)) - 1)] for share in RANKS})
    solutions: dict[int, LayerSolution] = {}
    fit = text.fit(FIT // WINDOW).split(8)
    for layer, layer_moments in enumerate(moments.by_layer(opened, fit, forms=(LATENT,))):
        if layer in layers:
            solutions[layer] = METHOD.solve(in_float64(opened.source[layer]), layer_moments)
        if layer == layers[-1]:
            break
    predicted = {
        layer: losses[LATENT].losses
        for layer, losses in predicted_losses(
            opened, windows, {layer: {LATENT: tried_ranks} for layer in layers}, solutions.__getitem__,
            labels=LABELS, seed=0, dtype=dtype,
        )
    }  # fmt: skip
    cuts = {
        (layer, rank): stored(solutions[layer].compressed(latent=rank), dtype)
        for layer in layers
        for rank in tried_ranks
    }
    losses: dict[tuple[int, int], list[float]] = {cut: [] for cut in cuts}
    with torch.no_grad():
        for part in windows.split(1):  # one window's logits at a time: a vocabulary may have 262,144 words
            reference = DenseDistribution(opened.model(part).logits)
            for (layer, rank), weights in cuts.items():
                opened.put(layer, weights)
                losses[layer, rank].append(float(reference.kl_per_window(opened.model(part).logits)[0]))
                opened.reset(layer)
    rows.add(
        {
            "model": run.case.name,
            "layer": layer,
            "rank": rank,
            "latent": rank * geometry.heads,
            "predicted_nats": fmean(predicted[layer][tried_ranks.index(rank)]),
            "measured_nats": fmean(values),
            "tokens": windows.numel(),
        }
        for (layer, rank), values in losses.items()
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | layer | rank, numbers of the latent | predicted, nats/token | measured | measured / predicted |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {row['model']} | {row['layer']} | {row['rank']}, {row['latent']} | {row['predicted_nats']:.2e} "
        f"| {row['measured_nats']:.2e} | {row['measured_nats'] / row['predicted_nats']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the models and fill the page."""
    options = arguments("benchmarks.real_latents", __doc__).parse_args(argv)
    rows = rows_of(options, "real-latents")
    for run in runs_of(options):
        measure(rows, run)
    show(options, {"real-latents": table(rows)})


if __name__ == "__main__":
    main()
