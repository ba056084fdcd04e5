"""Would QK be worth cutting for llama.cpp? ``python -m benchmarks.serving.common_pairs MODEL [--ranks 56 48 40 32]``.

Its files hold one set of rotary frequencies for all heads and layers, and one size of keys. So a smaller QK there keeps the
same pairs everywhere, the best set for all heads together (``a3+``'s elimination over all of their moments at once), while a
plan keeps each key/value head its own. A smaller OV of one rank, which is written already, saves as many bytes of cache and
weights at the same rank. All three are cut in all layers and held against the dense model: KL on windows of another text,
nats/token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from solvers.a3 import moments
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.linalg import damping
from solvers.a3.qk_gains import QKGains, eliminate_pairs
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.model.surgery import OpenModel, open_model
from solvers.texts.text import read_text
from solvers.weights import LayerWeights

WINDOW = 256
SHARED = Path(__file__).resolve().parents[3] / "shared" / "text"
STEPS = replace(A3_PLUS, mlp_order=False, mlp_refit=False, feedback=False)
"""MLPs stay whole here."""


@dataclass(frozen=True)
class Layers:
    """A model whose layers are solved, with pairs for each head and pairs for all heads."""

    opened: OpenModel
    solved: Sequence[LayerSolution]
    common: Sequence[QKGains]

    def cut(self, kind: str, layer: int, rank: int) -> LayerWeights:
        """One layer cut by ``kind``, "own pairs", "common pairs" or "OV", at this rank."""
        if kind == "OV":
            return self.solved[layer].compressed(ov=rank)
        if kind == "own pairs":
            return self.solved[layer].compressed(qk=rank)
        return self.common[layer].apply(self.solved[layer].dense, rank)


def solved_layers(folder: Path, text: Path, windows: int) -> Layers:
    """Moments of that many windows, solved.

    Raises:
        SystemExit: the model has no rotary pairs that can be chosen.
    """
    opened = open_model(reading.load(reading.inspect(folder)))
    ids = read_text(text, folder, window=WINDOW, what="calibration").windows[:windows]
    solved = []
    for layer, layer_moments in enumerate(moments.by_layer(opened, ids.split(8))):
        solved.append(solve_layer(opened.source[layer], layer_moments, STEPS))
    own = [solution.qk for solution in solved if isinstance(solution.qk, QKGains)]
    if len(own) < len(solved):
        raise SystemExit(f"{folder.name}: QK of this family has no pairs to choose")
    # The unit of every layer is the loss of its own cuts: an error of scores costs more in some layers than in others.
    grams = torch.cat([gains.gram_HFF / gains.energy for gains in own])
    order, _ = eliminate_pairs(grams[None], damping(grams.shape[-1], own[0].count))
    common = [
        replace(gains, pairs=replace(gains.pairs, order_KP=order.expand_as(gains.pairs.order_KP)))
        for gains in own
    ]
    return Layers(opened, solved, common)


@torch.no_grad()
def divergence(model: Callable[..., torch.Tensor], dense: Sequence[torch.Tensor], ids: torch.Tensor) -> float:
    """Mean KL of the dense model's next tokens to this one's, nats/token."""
    total = 0.0
    for window, expected in zip(ids, dense, strict=True):
        actual = model(window[None])
        total += float((expected.exp() * (expected - actual)).sum(-1).mean())
    return total / len(ids)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Parse arguments, cut, print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.common_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--calibration", type=Path, default=SHARED / "wikitext2-valid.txt")
    parser.add_argument("--evaluation", type=Path, default=SHARED / "wikitext2-test.txt")
    parser.add_argument("--windows", type=int, default=32, help=f"of {WINDOW} tokens to calibrate on")
    parser.add_argument("--held-out", type=int, default=8, help=f"windows of {WINDOW} tokens to evaluate on")
    parser.add_argument("--ranks", type=int, nargs="+", default=[56, 48, 40, 32])
    options = parser.parse_args(argv)
    layers = solved_layers(options.model, options.calibration, options.windows)
    opened = layers.opened

    def predicted(ids: torch.Tensor) -> torch.Tensor:
        return opened.model(ids, use_cache=False).logits[0].log_softmax(-1)

    ids = read_text(options.evaluation, options.model, window=WINDOW, what="evaluation").windows
    ids = ids[: options.held_out]
    dense = [predicted(window[None]) for window in ids]
    full = layers.solved[0].dense.qk_rank
    kinds = ("own pairs", "common pairs", "OV")
    print("| rank in all layers | QK, own pairs | QK, common pairs | OV |\n|---|---|---|---|", flush=True)
    for rank in options.ranks:
        cells = []
        for kind in kinds:
            for layer in range(len(layers.solved)):
                opened.put(layer, layers.cut(kind, layer, rank))
            cells.append(f"{divergence(predicted, dense, ids):.4f}")
        print(f"| {rank} of {full} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
