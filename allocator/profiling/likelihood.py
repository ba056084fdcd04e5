"""The likelihood of a text under a model: mean negative log-likelihood in nats/token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from allocator.base.errors import JobFailed
from allocator.profiling.logits import batches, logits_of, row_slices, token_slices
from allocator.profiling.work import body_windows
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
    nats, first_token = [], max(prefix, 1)
    streamed = isinstance(model, OpenModel)
    parts = windows.split(body_windows(windows.shape[1])) if streamed else tuple(batches(windows, vocab))
    outputs = model.states(parts, on_pass) if isinstance(model, OpenModel) else logits_of(model, parts)
    for part, output in zip(parts, outputs, strict=True):
        states = output[:, first_token - 1 : -1].flatten(0, 1)
        targets = part[:, first_token:].flatten().to(states.device)
        losses = states.new_empty(len(states), dtype=torch.float64)
        for tokens in token_slices(len(states)):
            logits = model.head(states[None, tokens])[0] if isinstance(model, OpenModel) else states[tokens]
            of_targets = logits.gather(-1, targets[tokens].unsqueeze(-1)).squeeze(-1)
            normalizers = torch.cat([torch.logsumexp(logits[rows], dim=-1) for rows in row_slices(logits)])
            losses[tokens] = (normalizers - of_targets).double()
        nats += losses.view(len(part), -1).mean(-1).tolist()
        tick()
    if not all(map(math.isfinite, nats)):
        raise JobFailed("the model's outputs are not finite; its weights overflow in float32")
    return nats


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
