"""The distance of a model's predictions from the dense model's: mean KL in nats/token, and agreement on the next token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from allocator.base.errors import JobFailed
from allocator.base.statistics import mean_and_stderr
from allocator.profiling.logits import batches, logits_of, row_slices, token_slices
from allocator.profiling.work import body_windows
from solvers.model.surgery import OpenModel

_LARGEST_SHIFT = 30.0


class DenseDistribution:
    """The dense model's distribution p over one batch; compares other logits with it.

    With d the difference of logits and d' = d − Σ p d, KL(p ‖ q) = log Σ p exp(d') = log1p(Σ p expm1(d')): shifting logits
    changes nothing, and no two large numbers are subtracted. The textbook form loses about 2e-6 nats in float32, which is more
    than many components cost.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        """``logits`` (B, T, V)."""
        self._logits = logits

    @property
    def top(self) -> torch.Tensor:
        """The most likely token at each position, (B, T)."""
        return self._logits.argmax(-1)

    def kl_per_window(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean KL of each window in nats/token, (B,) in float64."""
        return self.kl(logits).mean(-1)

    def kl(self, logits: torch.Tensor) -> torch.Tensor:
        """KL of each token in nats, (B, T) in float64."""
        dense, other = self._logits.flatten(0, -2), logits.flatten(0, -2)
        kl = dense.new_empty(len(dense), dtype=torch.float64)
        for rows in row_slices(dense):
            kl[rows] = _kl_of_rows(dense[rows], other[rows])
        return kl.view(self._logits.shape[:-1])


def _kl_of_rows(dense: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL of each row of logits (N, V) in nats, (N,) in float64.

    In place, since each further tensor of that size would leave the caches.
    """
    p = torch.softmax(dense, dim=-1)
    shift = other - dense
    shift -= torch.linalg.vecdot(p, shift).unsqueeze(-1)
    distant = shift.amax(-1) > _LARGEST_SHIFT
    far = shift[distant].double()
    if len(far):  # expm1 would overflow; so far apart, cancellation is no concern
        shift[distant] = 0
    kl = torch.log1p(torch.linalg.vecdot(p, shift.expm1_()).double().clamp_min(0))
    if len(far):
        kl[distant] = torch.logsumexp(torch.log_softmax(dense[distant].double(), dim=-1) + far, dim=-1)
    return kl


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
    losses = [expected.new_empty(shape.numel(), dtype=torch.float64) for _ in others]
    for part, reference, logits in _compared(dense, expected, others):
        for values, own_logits in zip(losses, logits, strict=True):
            values[part] = reference.kl(own_logits)[0]
        on_head((part.stop - part.start) * (1 + len(others)) / shape[1])
    return [values.view(shape).mean(-1) for values in losses]


def kl_and_agreement(
    dense: OpenModel, expected: torch.Tensor, other: OpenModel, states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean KL of each window, (B,) in float64, and the share of its positions at which both models name the same next token.

    Args:
        expected, states: last hidden states (B, T, D) of the dense and of the other model.
    """
    shape = expected.shape[:2]
    losses, agreement = (expected.new_empty(shape.numel(), dtype=torch.float64) for _ in range(2))
    for part, reference, (own_logits,) in _compared(dense, expected, [(other, states)]):
        losses[part] = reference.kl(own_logits)[0]
        agreement[part] = (reference.top == own_logits.argmax(-1))[0].double()
    return losses.view(shape).mean(-1), agreement.view(shape).mean(-1)


@dataclass(frozen=True)
class Comparison:
    """A model beside the dense one: mean KL in nats/token, its standard error, and how often both name the same next token."""

    kl_nats: float
    kl_stderr_nats: float
    top1_agreement: float


def compare_with_dense(
    dense: OpenModel,
    expected: Sequence[torch.Tensor],
    other: OpenModel,
    parts: Sequence[torch.Tensor],
    tick: Callable[[], None],
    on_pass: Callable[[], None] = lambda: None,
) -> Comparison:
    """Compare ``other`` with the dense model over batches of token ids.

    Args:
        expected: the dense model's last hidden states of each batch.
        tick: called after each batch; ``on_pass`` after each batch of each layer.

    Raises:
        JobFailed: the model's outputs are not finite.
    """
    losses: list[float] = []
    agreement: list[float] = []
    for dense_states, states in zip(expected, other.states(parts, on_pass), strict=True):
        kl, agrees = kl_and_agreement(dense, dense_states, other, states)
        losses += finite(kl).tolist()
        agreement += agrees.tolist()
        tick()
    return Comparison(*mean_and_stderr(losses), fmean(agreement))


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
        comparison = compare_with_dense(dense, list(dense.states(parts)), other, parts, tick)
        return comparison.kl_nats, comparison.kl_stderr_nats
    losses: list[torch.Tensor] = []
    parts = tuple(batches(windows, vocab))
    for expected, logits in zip(logits_of(dense, parts), logits_of(other, parts), strict=True):
        losses.append(DenseDistribution(expected).kl_per_window(logits))
        tick()
    return mean_and_stderr(finite(torch.cat(losses)).tolist())


def _compared(
    dense: OpenModel, expected: torch.Tensor, others: Sequence[tuple[OpenModel, torch.Tensor]]
) -> Iterator[tuple[slice, DenseDistribution, Iterator[torch.Tensor]]]:
    """Parts of all tokens: their slice, the dense model's distribution (1, n, V), and the logits of ``others``."""
    flat = expected.flatten(0, 1)
    for part in token_slices(len(flat)):
        logits = (model.head(states.flatten(0, 1)[None, part]) for model, states in others)
        yield part, DenseDistribution(dense.head(flat[None, part])), logits


def finite(per_window: torch.Tensor) -> torch.Tensor:
    """The same numbers. Raises JobFailed: the model produced NaN or infinity."""
    if not torch.isfinite(per_window).all():
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    return per_window
