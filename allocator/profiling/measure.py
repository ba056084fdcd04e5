"""End-to-end losses: mean KL to the dense model in nats/token, and negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from allocator.curves import Measurement
from allocator.geometry import Component
from solvers.surgery import OpenModel
from solvers.weights import LayerWeights

_LOGITS_LIMIT_BYTES = 256 << 20
_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class Variant:
    """One layer with one component cut."""

    component: Component
    rank: int
    weights: LayerWeights


def batches(windows: torch.Tensor, vocab: int) -> Iterator[torch.Tensor]:
    """Windows (W, T) in batches whose float32 log-probabilities stay within 256 MiB."""
    tokens = windows.shape[1]
    size = max(1, min(_TOKENS_PER_BATCH // tokens, _LOGITS_LIMIT_BYTES // (4 * vocab * tokens)))
    yield from windows.split(size)


def kl_per_window(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of KL(reference ‖ other) in nats, (B, T, V) log-probabilities -> (B,)."""
    return (reference.exp() * (reference - other)).sum(-1).mean(-1).double()


def _measurement(rank: int, per_window: list[torch.Tensor]) -> Measurement:
    values = torch.cat(per_window)
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Measurement(rank=rank, loss_nats=float(values.mean()), stderr_nats=spread)


@torch.no_grad()
def measure_layer(
    opened: OpenModel,
    index: int,
    variants: Sequence[Variant],
    windows: torch.Tensor,
    on_pass: Callable[[int, int], None],
) -> dict[Component, list[Measurement]]:
    """Losses of every variant of layer ``index``; the rest of the model stays dense.

    Each batch runs once to the layer; every variant restarts from those hidden states. The standard error is over windows,
    since neighbouring tokens are not independent. ``on_pass(done, total)`` is called after every pass of one batch.
    """
    parts = list(batches(windows, opened.config.vocab_size))
    total, done = len(parts) * (len(variants) + 1), 0
    losses: list[list[torch.Tensor]] = [[] for _ in variants]
    try:
        for part in parts:
            opened.reset(index)
            hidden, calls = opened.start(part)
            hidden = opened.advance(hidden, calls, 0, index)
            reference = opened.finish(hidden, calls, index)
            on_pass(done := done + 1, total)
            for number, variant in enumerate(variants):
                opened.put(index, variant.weights)
                losses[number].append(kl_per_window(reference, opened.finish(hidden, calls, index)))
                on_pass(done := done + 1, total)
    finally:
        opened.reset(index)
    found: dict[Component, list[Measurement]] = {"qk": [], "ov": [], "mlp": []}
    for variant, per_window in zip(variants, losses, strict=True):
        found[variant.component].append(_measurement(variant.rank, per_window))
    return found


@torch.no_grad()
def log_probs(model: torch.nn.Module, part: torch.Tensor) -> torch.Tensor:
    """(B, T) ids -> (B, T, V) log-probabilities of any causal model."""
    return torch.log_softmax(model(part, use_cache=False).logits.float(), dim=-1)


def kl_to_dense(
    dense: torch.nn.Module, other: torch.nn.Module, windows: torch.Tensor, vocab: int, tick: Callable[[], None]
) -> Measurement:
    """Mean KL of ``other`` to ``dense`` over windows (W, T); ``rank`` of the result is 0 and means nothing."""
    found = []
    for part in batches(windows, vocab):
        found.append(kl_per_window(log_probs(dense, part), log_probs(other, part)))
        tick()
    return _measurement(0, found)


def nll_nats(
    model: torch.nn.Module, windows: torch.Tensor, vocab: int, *, prefix: int, tick: Callable[[], None]
) -> float:
    """Mean negative log-likelihood per predicted token over windows (W, T); the first ``prefix`` ids are given."""
    total, count = 0.0, 0
    for part in batches(windows, vocab):
        first = max(prefix, 1)
        picked = log_probs(model, part)[:, first - 1 : -1].gather(-1, part[:, first:].unsqueeze(-1))
        total -= float(picked.double().sum())
        count += picked.numel()
        tick()
    return total / count
