"""Moments of each matrix's input, in float64: the peers' view of the calibration text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from allocator.profiling.logits import batches
from benchmarks.peers.blocks import READS, Block, Slot, blocks
from benchmarks.peers.once import STORABLE, once

BACKWARD_WINDOWS = 2
"""Windows of a batch that is run backwards: activations of all layers stay in memory."""


@dataclass
class Moment:
    """Sums over all tokens of [x; 1][x; 1]' and of |x|, x the inputs of a matrix."""

    outer: torch.Tensor
    absolute: torch.Tensor

    @property
    def count(self) -> float:
        return float(self.outer[-1, -1])

    @property
    def second(self) -> torch.Tensor:
        """E[xx'] (in, in)."""
        return self.outer[:-1, :-1] / self.count

    @property
    def mean(self) -> torch.Tensor:
        """E[x] (in,)."""
        return self.outer[-1, :-1] / self.count

    @property
    def mean_absolute(self) -> torch.Tensor:
        """E|x| (in,)."""
        return self.absolute / self.count

    def output(self, slot: Slot) -> torch.Tensor:
        """E[yy'] (out, out) of y = Wx + b."""
        bias = slot.bias
        weight = slot.weight
        column = torch.zeros(len(weight), 1, dtype=weight.dtype) if bias is None else bias.unsqueeze(1)
        full = torch.cat([weight, column], dim=1)
        return full @ (self.outer / self.count) @ full.T


STORABLE.append(Moment)


def copied(model: Any) -> Any:
    """An independent copy in evaluation mode."""
    return copy.deepcopy(model).eval()


class Stop(Exception):
    """Ends a forward pass that has gone far enough."""


@torch.no_grad()
def observe(
    model: Any, windows: torch.Tensor, hooks: Callable[[], list[Any]], *, last: Any | None = None
) -> None:
    """Run windows (W, T) with the hooks that ``hooks()`` sets; the pass ends after module ``last``."""

    def stop(module: Any, args: Any, output: Any) -> None:
        raise Stop

    handles = hooks()
    if last is not None:
        handles.append(last.register_forward_hook(stop))
    try:
        for part in batches(windows, model.config.vocab_size):
            try:
                model(part, use_cache=False)
            except Stop:
                continue
    finally:
        for handle in handles:
            handle.remove()


def watch(block: Block, moments: dict[str, Moment]) -> list[Any]:
    """Hooks that add up in ``moments`` the moments of what a block's matrices read."""

    def add(kind: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            flat = args[0].detach().double().flatten(0, -2)
            full = torch.cat([flat, torch.ones(len(flat), 1, dtype=flat.dtype)], dim=1)
            outer, absolute = full.T @ full, flat.abs().sum(0)
            if kind in moments:
                moments[kind].outer += outer
                moments[kind].absolute += absolute
            else:
                moments[kind] = Moment(outer, absolute)

        return hook

    read_by = {READS[name]: slot.module for name, slot in reversed(block.slots.items())}
    return [module.register_forward_pre_hook(add(kind)) for kind, module in read_by.items()]


def gathered(model: Any, windows: torch.Tensor) -> list[dict[str, Moment]]:
    """Per layer, the moments of the inputs "attn" (of q, k, v), "o", "mlp" (of gate, up) and "down"."""
    parts = blocks(model)
    by_block: list[dict[str, Moment]] = [{} for _ in parts]
    observe(
        model,
        windows,
        lambda: [
            handle for block, moments in zip(parts, by_block, strict=True) for handle in watch(block, moments)
        ],
        last=parts[-1].layer,
    )
    return by_block


def collect(model: Any, windows: torch.Tensor) -> list[dict[str, Moment]]:
    """``gathered``, once for this model and windows: a benchmark calls one peer after the other on them."""
    gathered_moments: list[dict[str, Moment]] = once(
        "moments", model, windows, lambda: gathered(model, windows)
    )
    return gathered_moments
