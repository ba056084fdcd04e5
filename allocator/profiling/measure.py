"""End-to-end losses of one layer's variants: mean KL to the dense model in nats/token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from allocator.profiling.cost import body_windows
from allocator.profiling.divergence import finite, kl_of_states
from allocator.profiling.needs import Cut, cut_of
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class Variant:
    """One layer with one component cut, or rounded to so many bits, or both."""

    component: str
    rank: int
    weights: LayerWeights
    bits: int | None = None

    @property
    def cut(self) -> Cut:
        return cut_of(self.component, self.rank, self.bits)


@torch.no_grad()
def measure_layer(
    opened: OpenModel,
    index: int,
    blocks: Mapping[int, tuple[torch.Tensor, Sequence[Variant]]],
    on_pass: Callable[[], None] = lambda: None,
    *,
    on_head: Callable[[float], None] = lambda windows: None,
    surroundings: Callable[[int], LayerWeights] | None = None,
) -> dict[int, list[list[float]]]:
    """KL to the dense model of every variant of layer ``index``, window by window.

    Each batch runs once to the layer; every variant restarts from those hidden states. All batches and variants go through one
    layer after the other, so that each layer is needed in memory once. A window's number depends on the windows of its
    block alone, not on what else is measured along with it.

    Args:
        blocks: number -> windows (W, T) and the variants to measure on them.
        on_pass: called after every pass of one batch through one layer.
        on_head: called after the logits of some tokens, with the windows that these are, of all models together.
        surroundings: layer -> its weights in the model around the variants; None: the rest of the model is dense.

    Returns:
        block -> for each of its variants the KL of each of its windows, nats/token.
    """
    streams = [
        _Stream.begin(opened, number, part, variants)
        for number, (windows, variants) in blocks.items()
        for part in windows.split(body_windows(windows.shape[1]))
    ]
    weights = {variant.cut: variant.weights for _, variants in blocks.values() for variant in variants}

    def through(layer: int, stream: _Stream, hidden: torch.Tensor) -> torch.Tensor:
        output = opened.advance(hidden, stream.calls, layer, layer + 1)
        on_pass()
        return output

    for layer in range(len(opened.source)):
        outputs = [through(layer, stream, stream.dense) for stream in streams]
        try:
            if layer == index:
                for cut, changed in weights.items():
                    opened.put(layer, changed)
                    for stream in streams:
                        if cut in stream.cuts:
                            stream.cuts[cut] = through(layer, stream, stream.before)
            elif surroundings is not None or layer > index:
                if surroundings is not None:
                    opened.put(layer, surroundings(layer))
                for stream in streams:
                    if layer < index:
                        stream.before = through(layer, stream, stream.before)
                    else:
                        stream.cuts = {cut: through(layer, stream, at) for cut, at in stream.cuts.items()}
        finally:
            opened.reset(layer)
        for stream, output in zip(streams, outputs, strict=True):
            stream.dense = output
            if surroundings is None and layer < index:
                stream.before = output
    losses_by_block: dict[int, list[list[float]]] = {
        number: [[] for _ in variants] for number, (_, variants) in blocks.items()
    }
    for stream in streams:
        others = [(opened, hidden) for hidden in stream.cuts.values()]
        losses = kl_of_states(opened, stream.dense, others, on_head)
        for row, values in zip(losses_by_block[stream.block], losses, strict=True):
            row += finite(values).tolist()
    return losses_by_block


@dataclass
class _Stream:
    """Hidden states of one batch on their way through the layers."""

    block: int
    calls: list[dict[str, Any]]
    dense: torch.Tensor
    before: torch.Tensor
    """Before the layer whose variants are measured."""
    cuts: dict[Cut, torch.Tensor]

    @classmethod
    def begin(cls, opened: OpenModel, block: int, part: torch.Tensor, variants: Sequence[Variant]) -> _Stream:
        hidden, calls = opened.start(part)
        return cls(block, calls, hidden, hidden, {variant.cut: hidden for variant in variants})
