"""End-to-end losses: mean KL to the dense model in nats/token, and negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from allocator.errors import JobFailed
from allocator.profiling.cost import batch_windows
from allocator.profiling.needs import Cut, cut_of, mean_and_stderr
from solvers.surgery import OpenModel
from solvers.weights import LayerWeights

_LARGEST_SHIFT = 30.0


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


def batches(windows: torch.Tensor, vocab: int) -> Iterator[torch.Tensor]:
    """Windows (W, T) in batches whose float32 log-probabilities stay within 256 MiB."""
    yield from windows.split(batch_windows(windows.shape[1], vocab))


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


def _finite(per_window: torch.Tensor) -> torch.Tensor:
    """The same numbers. Raises JobFailed: the model produced NaN or infinity."""
    if not torch.isfinite(per_window).all():
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    return per_window


@torch.no_grad()
def measure_layer(
    opened: OpenModel,
    index: int,
    blocks: Mapping[int, tuple[torch.Tensor, Sequence[Variant]]],
    on_pass: Callable[[], None] = lambda: None,
    *,
    context: Callable[[int], LayerWeights] | None = None,
) -> dict[int, list[list[float]]]:
    """KL to the dense model of every variant of layer ``index``, window by window.

    Each batch runs once to the layer; every variant restarts from those hidden states. All batches and variants go through one
    layer after the other, so that each layer is needed in memory once. A window's number depends on the windows of its
    block alone, not on what else is measured along with it.

    Args:
        blocks: number -> windows (W, T) and the variants to measure on them.
        on_pass: called after every pass of one batch through one layer.
        context: layer -> its weights in the model around the variants; None: the rest of the model is dense.

    Returns:
        block -> for each of its variants the KL of each of its windows, nats/token.
    """
    streams = [
        _Stream.begin(opened, number, part, variants)
        for number, (windows, variants) in blocks.items()
        for part in batches(windows, opened.config.vocab_size)
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
            elif context is not None or layer > index:
                if context is not None:
                    opened.put(layer, context(layer))
                for stream in streams:
                    if layer < index:
                        stream.before = through(layer, stream, stream.before)
                    else:
                        stream.cuts = {cut: through(layer, stream, at) for cut, at in stream.cuts.items()}
        finally:
            opened.reset(layer)
        for stream, output in zip(streams, outputs, strict=True):
            stream.dense = output
            if context is None and layer < index:
                stream.before = output
    found: dict[int, list[list[float]]] = {number: [[] for _ in each] for number, (_, each) in blocks.items()}
    for stream in streams:
        reference = Reference(opened.head(stream.dense))
        for row, hidden in zip(found[stream.block], stream.cuts.values(), strict=True):
            row += _finite(reference.kl_per_window(opened.head(hidden))).tolist()
    return found


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
    return mean_and_stderr(_finite(torch.cat(found)).tolist())


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
