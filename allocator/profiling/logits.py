"""Logits in parts that memory holds: batches of windows, slices of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from allocator.profiling.work import batch_windows
from solvers.model.surgery import OpenModel

_HEAD_TOKENS = 256
"""Tokens whose logits are computed at once. The head is read whole for every slice: with 16 tokens of a vocabulary of 262,144
words the product takes two and a half times as long a token. Those of 256 tokens are a quarter GiB there.
"""
_CACHED_BYTES = 2 << 20
"""Logits that a CPU compares at once: what its caches hold. A step over all of a slice waits for memory."""


def batches(windows: torch.Tensor, vocab: int) -> Iterator[torch.Tensor]:
    """Windows (W, T) in batches whose float32 log-probabilities stay within 256 MiB."""
    yield from windows.split(batch_windows(windows.shape[1], vocab))


def token_slices(tokens: int) -> Iterator[slice]:
    """Slices of so many tokens whose logits are computed at once, in order."""
    yield from _slices(tokens, _HEAD_TOKENS)


def row_slices(logits: torch.Tensor) -> Iterator[slice]:
    """Slices of the rows of logits (N, V) that are compared at once, in order: on a CPU what its caches hold, elsewhere all."""
    rows, vocab = logits.shape
    on_cpu = logits.device.type == "cpu"
    yield from _slices(rows, max(1, _CACHED_BYTES // (logits.element_size() * vocab)) if on_cpu else rows)


@torch.no_grad()
def logits_of(model: torch.nn.Module | OpenModel, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """(B, T) ids -> (B, T, V) float32 logits of any causal model, on its device, batch by batch."""
    if isinstance(model, OpenModel):
        yield from model.logits(parts)
    else:
        device = next(model.parameters()).device
        for part in parts:
            yield model(part.to(device), use_cache=False).logits.float()


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
