"""End-to-end losses: mean KL to the dense model in nats/token, and negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from allocator.curves import Measurement
from allocator.errors import JobFailed
from allocator.geometry import Component
from solvers.surgery import OpenModel
from solvers.weights import LayerWeights

_LOGITS_LIMIT_BYTES = 256 << 20
_TOKENS_PER_BATCH = 4096
_LARGEST_SHIFT = 30.0


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


class Reference:
    """The dense model's distribution p over one batch; compares other logits with it.

    With d the difference of logits and d' = d − Σ p d, KL(p ‖ q) = log Σ p exp(d') = log1p(Σ p expm1(d')): shifting logits
    changes nothing, and no two large numbers are subtracted. The textbook form loses about 2e-6 nats in float32, which is more
    than many components cost.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        """``logits`` (B, T, V)."""
        self._logits = logits
        self._p = torch.softmax(logits, dim=-1)

    def kl_per_window(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean KL of each window in nats/token, (B,) in float64."""
        shift = logits - self._logits
        shift = shift - torch.linalg.vecdot(self._p, shift).unsqueeze(-1)
        excess = torch.linalg.vecdot(self._p, torch.expm1(shift.clamp(max=_LARGEST_SHIFT)))
        kl = torch.log1p(excess.double().clamp_min(0))
        far = shift.amax(-1) > _LARGEST_SHIFT
        if far.any():  # expm1 would overflow; so far apart, cancellation is no concern
            log_p = torch.log_softmax(self._logits[far].double(), dim=-1)
            kl[far] = torch.logsumexp(log_p + shift[far].double(), dim=-1)
        return kl.mean(-1)


def _mean(per_window: list[torch.Tensor]) -> tuple[float, float]:
    """Mean over windows and its standard error (neighbouring tokens are not independent).

    Raises:
        JobFailed: the model produced NaN or infinity.
    """
    values = torch.cat(per_window)
    if not torch.isfinite(values).all():
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), spread


@torch.no_grad()
def measure_layer(
    opened: OpenModel,
    index: int,
    variants: Sequence[Variant],
    windows: torch.Tensor,
    on_pass: Callable[[int, int], None],
) -> dict[Component, list[Measurement]]:
    """Losses of every variant of layer ``index``; the rest of the model stays dense.

    Each batch runs once to the layer; every variant restarts from those hidden states. All batches and variants go through one
    layer after the other, so that each layer is needed in memory once. ``on_pass(done, total)`` is called after every
    pass of one batch through one layer.
    """
    parts = list(batches(windows, opened.config.vocab_size))
    layers, done = len(opened.source), 0
    total = len(parts) * (index + (layers - index) * (len(variants) + 1))
    starts = [opened.start(part) for part in parts]

    def through(layer: int, states: list[torch.Tensor]) -> list[torch.Tensor]:
        nonlocal done
        found = []
        for hidden, (_, calls) in zip(states, starts, strict=True):
            found.append(opened.advance(hidden, calls, layer, layer + 1))
            on_pass(done := done + 1, total)
        return found

    before = [hidden for hidden, _ in starts]
    for layer in range(index):
        before = through(layer, before)
    opened.reset(index)
    streams = [through(index, before)]
    try:
        for variant in variants:
            opened.put(index, variant.weights)
            streams.append(through(index, before))
    finally:
        opened.reset(index)
    for layer in range(index + 1, layers):
        streams = [through(layer, states) for states in streams]
    losses: list[list[torch.Tensor]] = [[] for _ in variants]
    for dense, *cut in zip(*streams, strict=True):
        reference = Reference(opened.head(dense))
        for number, hidden in enumerate(cut):
            losses[number].append(reference.kl_per_window(opened.head(hidden)))
    found: dict[Component, list[Measurement]] = {"qk": [], "ov": [], "mlp": []}
    for variant, per_window in zip(variants, losses, strict=True):
        found[variant.component].append(Measurement(variant.rank, *_mean(per_window)))
    return found


@torch.no_grad()
def logits_of(model: torch.nn.Module | OpenModel, parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """(B, T) ids -> (B, T, V) float32 logits of any causal model, on its device, batch by batch."""
    if isinstance(model, OpenModel):
        yield from model.logits(parts)
    else:
        device = next(model.parameters()).device
        for part in parts:
            yield model(part.to(device), use_cache=False).logits.float()


def kl_to_dense(
    dense: torch.nn.Module | OpenModel,
    other: torch.nn.Module | OpenModel,
    windows: torch.Tensor,
    vocab: int,
    tick: Callable[[], None],
) -> tuple[float, float]:
    """Mean KL of ``other`` to ``dense``, on the same device, over windows (W, T) and its standard error, nats/token."""
    found, parts = [], list(batches(windows, vocab))
    for expected, logits in zip(logits_of(dense, parts), logits_of(other, parts), strict=True):
        found.append(Reference(expected).kl_per_window(logits))
        tick()
    return _mean(found)


def nll_nats(
    model: torch.nn.Module | OpenModel,
    windows: torch.Tensor,
    vocab: int,
    *,
    prefix: int,
    tick: Callable[[], None],
) -> float:
    """Mean negative log-likelihood per predicted token over windows (W, T); the first ``prefix`` ids are given."""
    total, count, first = 0.0, 0, max(prefix, 1)
    parts = list(batches(windows, vocab))
    for part, whole in zip(parts, logits_of(model, parts), strict=True):
        logits = whole[:, first - 1 : -1]
        wanted = part[:, first:].unsqueeze(-1).to(logits.device)
        picked = logits.gather(-1, wanted).squeeze(-1) - torch.logsumexp(logits, dim=-1)
        total -= float(picked.double().sum())
        count += picked.numel()
        tick()
    if not math.isfinite(total):
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    return total / count
