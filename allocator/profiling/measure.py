"""End-to-end losses: mean KL to the dense model in nats/token, and negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from allocator.base.errors import JobFailed
from allocator.base.statistics import mean_and_stderr
from allocator.profiling.cost import batch_windows, body_windows
from allocator.profiling.needs import Cut, cut_of
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights

_LARGEST_SHIFT = 30.0
_LOGITS_BYTES = 16 << 20
"""Logits are compared by so many bytes at a time: a vocabulary of 262,144 words needs no more memory than one of 32,000."""


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

    @property
    def top(self) -> torch.Tensor:
        """The most likely token at each position, (B, T)."""
        return self._logits.argmax(-1)

    def kl_per_window(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean KL of each window in nats/token, (B,) in float64."""
        return self.kl(logits).mean(-1)

    def kl(self, logits: torch.Tensor) -> torch.Tensor:
        """KL of each token in nats, (B, T) in float64."""
        shift = logits - self._logits
        shift = shift - torch.linalg.vecdot(self._p, shift).unsqueeze(-1)
        excess = torch.linalg.vecdot(self._p, torch.expm1(shift.clamp(max=_LARGEST_SHIFT)))
        kl = torch.log1p(excess.double().clamp_min(0))
        far = shift.amax(-1) > _LARGEST_SHIFT
        if far.any():  # expm1 would overflow; so far apart, cancellation is no concern
            log_p = torch.log_softmax(self._logits[far].double(), dim=-1)
            kl[far] = torch.logsumexp(log_p + shift[far].double(), dim=-1)
        return kl


def rows(hidden: torch.Tensor, vocab: int) -> Iterator[slice]:
    """Slices of the tokens of hidden states (N, D) whose logits stay within ``_LOGITS_BYTES``."""
    size = max(1, _LOGITS_BYTES // (4 * vocab))
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)


def kl_of_states(
    dense: OpenModel,
    expected: torch.Tensor,
    others: Sequence[tuple[OpenModel, torch.Tensor]],
    on_head: Callable[[float], None] = lambda windows: None,
) -> list[torch.Tensor]:
    """Mean KL of each window, (B,) in float64, for each of ``others``: a model and its last hidden states (B, T, D).

    Args:
        expected: the dense model's last hidden states.
        on_head: called after the logits of some tokens, with the windows that these are, of all models together.
    """
    shape = expected.shape[:2]
    found = [expected.new_empty(shape.numel(), dtype=torch.float64) for _ in others]
    for part, reference, logits in _compared(dense, expected, others):
        for values, own in zip(found, logits, strict=True):
            values[part] = reference.kl(own)[0]
        tokens = min(part.stop, shape.numel()) - part.start
        on_head(tokens * (1 + len(others)) / shape[1])
    return [values.view(shape).mean(-1) for values in found]


def kl_and_agreement(
    dense: OpenModel, expected: torch.Tensor, other: OpenModel, states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each window, (B,) in float64: mean KL, and the share of positions at which both models name the same next token.

    Args:
        expected, states: last hidden states (B, T, D) of the dense and of the other model.
    """
    shape = expected.shape[:2]
    losses, same = (expected.new_empty(shape.numel(), dtype=torch.float64) for _ in range(2))
    for part, reference, (own,) in _compared(dense, expected, [(other, states)]):
        losses[part] = reference.kl(own)[0]
        same[part] = (reference.top == own.argmax(-1))[0].double()
    return losses.view(shape).mean(-1), same.view(shape).mean(-1)


@dataclass(frozen=True)
class Beside:
    """A model beside the dense one: mean KL in nats/token, its standard error, and how often both name the same next token."""

    kl_nats: float
    kl_stderr_nats: float
    top1_agreement: float


def beside_dense(
    dense: OpenModel,
    expected: Sequence[torch.Tensor],
    other: OpenModel,
    parts: Sequence[torch.Tensor],
    tick: Callable[[], None],
    on_pass: Callable[[], None] = lambda: None,
) -> Beside:
    """Compare ``other`` with the dense model over batches of token ids.

    Args:
        expected: the dense model's last hidden states of each batch.
        tick: called after each batch; ``on_pass`` after each batch of each layer.

    Raises:
        JobFailed: the model's outputs are not finite.
    """
    losses: list[float] = []
    agreement: list[float] = []
    for own, states in zip(expected, other.states(parts, on_pass), strict=True):
        kl, same = kl_and_agreement(dense, own, other, states)
        losses += finite(kl).tolist()
        agreement += same.tolist()
        tick()
    return Beside(*mean_and_stderr(losses), fmean(agreement))


def _compared(
    dense: OpenModel, expected: torch.Tensor, others: Sequence[tuple[OpenModel, torch.Tensor]]
) -> Iterator[tuple[slice, Reference, Iterator[torch.Tensor]]]:
    """By parts of all tokens: which they are, the dense model's distribution (1, n, V), and the logits of ``others``."""
    flat = expected.flatten(0, 1)
    for part in rows(flat, dense.config.vocab_size):
        logits = (model.head(states.flatten(0, 1)[None, part]) for model, states in others)
        yield part, Reference(dense.head(flat[None, part])), logits


def finite(per_window: torch.Tensor) -> torch.Tensor:
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
    on_head: Callable[[float], None] = lambda windows: None,
    context: Callable[[int], LayerWeights] | None = None,
) -> dict[int, list[list[float]]]:
    """KL to the dense model of every variant of layer ``index``, window by window.

    Each batch runs once to the layer; every variant restarts from those hidden states. All batches and variants go through one
    layer after the other, so that each layer is needed in memory once. A window's number depends on the windows of its
    block alone, not on what else is measured along with it.

    Args:
        blocks: number -> windows (W, T) and the variants to measure on them.
        on_pass: called after every pass of one batch through one layer.
        on_head: called after the logits of some tokens, with the windows that these are, of all models together.
        context: layer -> its weights in the model around the variants; None: the rest of the model is dense.

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
        others = [(opened, hidden) for hidden in stream.cuts.values()]
        losses = kl_of_states(opened, stream.dense, others, on_head)
        for row, values in zip(found[stream.block], losses, strict=True):
            row += finite(values).tolist()
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
    if isinstance(dense, OpenModel) and isinstance(other, OpenModel):
        parts = windows.split(body_windows(windows.shape[1]))
        beside = beside_dense(dense, list(dense.states(parts)), other, parts, tick)
        return beside.kl_nats, beside.kl_stderr_nats
    found: list[torch.Tensor] = []
    parts = tuple(batches(windows, vocab))
    for expected, logits in zip(logits_of(dense, parts), logits_of(other, parts), strict=True):
        found.append(Reference(expected).kl_per_window(logits))
        tick()
    return mean_and_stderr(finite(torch.cat(found)).tolist())


@torch.no_grad()
def nll_per_window(
    model: torch.nn.Module | OpenModel,
    windows: torch.Tensor,
    vocab: int,
    *,
    prefix: int,
    tick: Callable[[], None],
    on_pass: Callable[[], None] = lambda: None,
) -> list[float]:
    """Mean negative log-likelihood per predicted token of each window (W, T); the first ``prefix`` ids are given.

    Args:
        tick: called after each batch; ``on_pass`` after each batch of each layer.

    Raises:
        JobFailed: the model's outputs are not finite.
    """
    found, first = [], max(prefix, 1)
    streamed = isinstance(model, OpenModel)
    parts = windows.split(body_windows(windows.shape[1])) if streamed else tuple(batches(windows, vocab))
    outputs = model.states(parts, on_pass) if isinstance(model, OpenModel) else logits_of(model, parts)
    for part, output in zip(parts, outputs, strict=True):
        states = output[:, first - 1 : -1].flatten(0, 1)
        wanted = part[:, first:].flatten().to(states.device)
        picked = states.new_empty(len(states), dtype=torch.float64)
        for here in rows(states, vocab):
            logits = model.head(states[None, here])[0] if isinstance(model, OpenModel) else states[here]
            chosen = logits.gather(-1, wanted[here].unsqueeze(-1)).squeeze(-1)
            picked[here] = (torch.logsumexp(logits, dim=-1) - chosen).double()
        found += picked.view(len(part), -1).mean(-1).tolist()
        tick()
    if not all(map(math.isfinite, found)):
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    return found


def nll_nats(
    model: torch.nn.Module | OpenModel,
    windows: torch.Tensor,
    vocab: int,
    *,
    prefix: int,
    tick: Callable[[], None],
) -> float:
    """The mean of ``nll_per_window``: all windows predict as many tokens."""
    return math.fsum(nll_per_window(model, windows, vocab, prefix=prefix, tick=tick)) / len(windows)
