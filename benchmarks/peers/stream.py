"""Windows on their way through a model, one layer at a time: nothing is run twice.

The layers that are behind are exchanged for one module that returns what the last of them did, so embeddings, masks, positions
and the head are the model's own, whatever the family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from allocator.profiling.logits import batches
from benchmarks.peers.blocks import blocks, layers
from benchmarks.peers.moments import Moment, Stop, watch


class _Given(nn.Module):
    """Stands in for the layers that are behind."""

    def __init__(self, output: Any, layer: nn.Module) -> None:
        super().__init__()
        self.output = output
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


@contextmanager
def behind(model: Any, index: int, output: Any) -> Iterator[None]:
    """Within it layers before ``index`` are not run: layer ``index`` is given ``output``."""
    all_layers = layers(model)
    own = list(all_layers[:index])
    try:
        for number, layer in enumerate(own):
            all_layers[number] = _Given(output, layer)
        yield
    finally:
        for number, layer in enumerate(own):
            all_layers[number] = layer


class Stream:
    """Batches of windows (W, T) at the entrance of layer ``index`` of a model, which may change ahead of them."""

    def __init__(self, model: Any, windows: torch.Tensor) -> None:
        self.model, self.index = model, 0
        self.parts: list[torch.Tensor] = list(batches(windows, model.config.vocab_size))
        self.entering: list[Any] = [None] * len(self.parts)
        """Outputs of the layer before, batch by batch; None before layer 0."""

    @property
    def hidden(self) -> list[torch.Tensor]:
        """Hidden states (B, T, D) of each batch; not before layer 0."""
        return [output[0] if isinstance(output, tuple) else output for output in self.entering]

    @torch.no_grad()
    def run(self, hooks: Callable[[], list[Any]] = list) -> list[Any]:
        """Outputs of layer ``index`` alone, with the hooks that ``hooks()`` sets."""
        layer, outputs = layers(self.model)[self.index], []

        def stop(module: Any, args: Any, output: Any) -> None:
            outputs.append(output)
            raise Stop

        handles = hooks()
        handles.append(layer.register_forward_hook(stop))
        try:
            for part, entering in zip(self.parts, self.entering, strict=True):
                with behind(self.model, self.index, entering):
                    try:
                        self.model(part, use_cache=False)
                    except Stop:
                        continue
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def moments(self) -> dict[str, Moment]:
        """Moments of the inputs of layer ``index``'s matrices."""
        moments: dict[str, Moment] = {}
        block = blocks(self.model)[self.index]
        self.run(lambda: watch(block, moments))
        return moments

    def step(self) -> None:
        """Go on to the next layer."""
        self.entering = self.run()
        self.index += 1


class Tails:
    """A dense model's hidden states at every layer, to measure what a change in one layer does from there on."""

    def __init__(self, model: Any, windows: torch.Tensor) -> None:
        stream = Stream(model, windows)
        self.parts = stream.parts
        self.entering: list[Sequence[Any]] = []
        for _ in layers(model):
            self.entering.append(stream.entering)
            stream.step()

    @torch.no_grad()
    def logits(self, model: Any, index: int) -> Iterator[torch.Tensor]:
        """Logits (B, T, V) of each batch of a model that is dense before layer ``index``."""
        for part, entering in zip(self.parts, self.entering[index], strict=True):
            with behind(model, index, entering):
                yield model(part, use_cache=False).logits
