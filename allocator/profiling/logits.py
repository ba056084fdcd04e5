"""Logits in parts that memory holds: batches of windows, slices of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from allocator.profiling.work import batch_windows
from solvers.model.surgery import OpenModel

_LOGITS_BYTES = 16 << 20
"""Logits are compared by so many bytes at a time: a vocabulary of 262,144 words needs no more memory than one of 32,000."""


def batches(windows: torch.Tensor, vocab: int) -> Iterator[torch.Tensor]:
    """Windows (W, T) in batches whose float32 log-probabilities stay within 256 MiB."""
    yield from windows.split(batch_windows(windows.shape[1], vocab))


def token_slices(hidden: torch.Tensor, vocab: int) -> Iterator[slice]:
    """Slices of the tokens of hidden states (N, D) whose logits stay within ``_LOGITS_BYTES``."""
    size = max(1, _LOGITS_BYTES // (4 * vocab))
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)


@torch.no_grad()
def logits_of(model: torch.nn.Module | OpenModel, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """(B, T) ids -> (B, T, V) float32 logits of any causal model, on its device, batch by batch."""
    if isinstance(model, OpenModel):
        yield from model.logits(parts)
    else:
        device = next(model.parameters()).device
        for part in parts:
            yield model(part.to(device), use_cache=False).logits.float()
