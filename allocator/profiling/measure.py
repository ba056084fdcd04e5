"""End-to-end losses of one layer's variants: mean KL to the dense model in nats/token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from allocator.profiling.divergence import finite, kl_of_states
from allocator.profiling.needs import Cut, cut_of
from allocator.profiling.reference import Reference, References
from allocator.profiling.work import body_windows
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
    references: References | None = None,
) -> dict[int, list[list[float]]]:
    """KL to the dense model of every variant of layer ``index``, window by window.

    Each batch runs once to the layer; every variant restarts from those hidden states. All batches and variants go through one
    layer after the other, so that each layer is needed in memory once. A window's number depends on the windows of its
    block alone, not on what else is measured along with it or was before.

    Args:
        blocks: number -> windows (W, T) and the variants to measure on them.
        on_pass: called after every pass of one batch through one layer.
        on_head: called after the logits of some tokens, with the windows that these are, of all models together.
        surroundings: layer -> its weights in the model around the variants; None: the rest of the model is dense.
        references: the dense model on batches that other layers were measured on; passes that it has made are not made again.

    Returns:
        block -> for each of its variants the KL of each of its windows, nats/token.
    """
    references = references or References()
    streams = [
        _Stream(number, references.of(opened, part), [variant.cut for variant in variants])
        for number, (windows, variants) in blocks.items()
        for part in windows.split(body_windows(windows.shape[1]))
    ]
    weights = {variant.cut: variant.weights for _, variants in blocks.values() for variant in variants}

    def through(layer: int, stream: _Stream, hidden: torch.Tensor) -> torch.Tensor:
        output = opened.advance(hidden, stream.reference.calls, layer, layer + 1)
        on_pass()
        return output

    for stream in streams:
        stream.reference.rewind(opened, index)
        if surroundings is not None:
            stream.before = opened.start(stream.reference.input_ids)[0]
    for layer in range(len(opened.source)):
        for stream in streams:
            stream.run_dense(index, layer, partial(through, layer, stream))
        try:
            if layer == index:
                for stream in streams:
                    if surroundings is None:
                        stream.before = stream.reference.states
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
    losses_by_block: dict[int, list[list[float]]] = {
        number: [[] for _ in variants] for number, (_, variants) in blocks.items()
    }
    for stream in streams:
        others = [(opened, hidden) for hidden in stream.cuts.values()]
        losses = kl_of_states(opened, stream.expected, others, on_head)
        for row, values in zip(losses_by_block[stream.block], losses, strict=True):
            row += finite(values).tolist()
    return losses_by_block


class _Stream:
    """Hidden states of one batch on their way through the layers."""

    def __init__(self, block: int, reference: Reference, cuts: Sequence[Cut]) -> None:
        self.block, self.reference = block, reference
        self.before = reference.states
        """Before the layer whose variants are measured, once it is reached."""
        self.cuts = dict.fromkeys(cuts, reference.states)
        self._dense = reference.states

    @property
    def expected(self) -> torch.Tensor:
        """The dense model's last states."""
        assert self.reference.last is not None
        return self.reference.last

    def run_dense(self, index: int, layer: int, run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Run the dense model through ``layer`` unless it has been: up to layer ``index``, which is measured, and behind it."""
        reference = self.reference
        if layer < index:
            if layer == reference.reached:
                reference.advance(run)
        elif reference.last is None:
            self._dense = run(reference.states if layer == index else self._dense)
            if layer == len(reference.calls) - 1:
                reference.last = self._dense
