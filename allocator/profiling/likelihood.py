"""The likelihood of a text under a model: mean negative log-likelihood in nats/token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from allocator.base.errors import JobFailed
from allocator.profiling.cost import body_windows
from allocator.profiling.logits import batches, logits_of, token_slices
from solvers.model.surgery import OpenModel


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
        for here in token_slices(states, vocab):
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
