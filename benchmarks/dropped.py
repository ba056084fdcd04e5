"""Would whole attentions and MLPs be dropped? ``python -m benchmarks.dropped [--model smollm2|gemma3|PATH] ...``.

Rank 0 of a component is measured in every layer: its output projection gives nothing but its bias. It is worth an option of
the program if it wins at the price of some budget: its loss is below that of every rank, each plus what the rank costs at that
price. An attention competes with the sum of its two components. The profile is that of ``benchmarks.real``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from allocator.plan.documents.curve import Curve
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import Component
from allocator.plan.planning import plan_from_profile
from allocator.profiling.measure import Variant, measure_layer
from benchmarks.profiled import Home, Model, Profile
from benchmarks.real import Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Row, Rows
from solvers.weights import LayerWeights

KEEPS = ("0.95", "0.9", "0.8", "0.7", "0.6", "0.5")
WINDOWS = 8
PARTS: dict[str, tuple[Component, ...]] = {"attention": ("qk", "ov"), "mlp": ("mlp",)}


def without(weights: LayerWeights, part: str) -> LayerWeights:
    """The layer with one part's output projection at zero."""
    name = "o_HrD" if part == "attention" else "down_mD"
    return replace(weights, **{name: torch.zeros_like(getattr(weights, name))})


def losses(model: Model, profile: Profile, layer: int, windows: torch.Tensor) -> dict[str, float]:
    """Part -> KL to the dense model without it, nats/token."""
    weights = model.opened.source[layer]
    variants = [Variant(part, 0, without(weights, part)) for part in PARTS]
    (values,) = measure_layer(model.opened, layer, {0: (windows, variants)}).values()
    return {part: statistics.fmean(kl) for part, kl in zip(PARTS, values, strict=True)}


def cheapest(model: Model, curves: Sequence[Curve], layer: int, price: float) -> float:
    """Least loss plus cost, nats, over the ranks of each of these curves."""
    metric = Metric("block_params")

    def priced(curve: Curve, rank: int) -> float:
        return curve.loss_at(rank) + price * model.costs.cost_of(metric, curve.component, layer, rank)

    return sum(min(priced(curve, rank) for rank in curve.ranks) for curve in curves)


def measure(rows: Rows, run: Run) -> None:
    """Add what is missing of a model."""
    if all(rows.has(**run.head, keep=keep) for keep in KEEPS):
        return
    with closing(Home(run.case, run.home)) as home:
        profile = home.profile(run.effort)
        model = Model(profile, run.case)
        windows = model.evaluation(WINDOWS)
        layers = range(model.geometry.layers)
        dropped = [losses(model, profile, layer, windows) for layer in layers]
    curve_at = {(curve.layer, curve.component): curve for curve in profile.curves}
    for keep in KEEPS:
        plan = plan_from_profile(profile.document, [f"block_params={keep}"])
        price = plan.budgets[0].shadow_price
        assert price is not None, "the program prices every budget"
        row: Row = {**run.head, "keep": keep, "windows": WINDOWS, "price": price, "layers": len(layers)}
        for part, components in PARTS.items():
            gains = [
                cheapest(model, [curve_at[layer, c] for c in components], layer, price) - dropped[layer][part]
                for layer in layers
            ]
            row[part] = {
                "wins": [layer for layer in layers if gains[layer] > 0],
                "gain_nats": sum(gain for gain in gains if gain > 0),
                "nearest_nats": max(gains),
                "losses": [layer_losses[part] for layer_losses in dropped],
            }
        rows.add([{**row, "predicted_nats": plan.predicted.loss_nats}])


def table(rows: Sequence[Row]) -> str:
    """One line a budget."""
    lines = [
        "| model | budget | predicted loss | attentions dropped | gain, nats | MLPs dropped | gain, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:

        def cells(part: dict[str, Any], layers: int) -> str:
            return f"{len(part['wins'])} of {layers} | {part['gain_nats']:.4f}"

        lines.append(
            f"| {row['model']} | `block_params={row['keep']}` | {row['predicted_nats']:.4f} "
            f"| {cells(row['attention'], row['layers'])} | {cells(row['mlp'], row['layers'])} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the table."""
    options = arguments("benchmarks.dropped", __doc__).parse_args(argv)
    rows = rows_of(options, "dropped")
    for run in runs_of(options):
        measure(rows, run)
    show(options, {"dropped": table(rows)})


if __name__ == "__main__":
    main()
