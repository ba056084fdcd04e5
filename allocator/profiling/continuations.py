"""Greedy continuations of a few beginnings of the evaluation text, for people to read side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from solvers.model.surgery import OpenModel

PROMPTS = 5
PROMPT_TOKENS = 24
"""Of the text; what the tokenizer puts in front of every text comes on top."""
NEW_TOKENS = 32


def prompts_of(windows: torch.Tensor, *, prefix: int) -> torch.Tensor:
    """Beginnings (P, prefix + 24) of at most five windows of (W, T), evenly spread; shorter where windows are short.

    Args:
        prefix: ids in front of every window that are none of the text.
    """
    spread = torch.linspace(0, len(windows) - 1, min(PROMPTS, len(windows))).round().long()
    return windows[spread, : prefix + PROMPT_TOKENS]


@torch.no_grad()
def continued(
    opened: OpenModel, prompts: torch.Tensor, new: int, on_pass: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """The ``new`` most likely ids, one after the other, behind each of ``prompts`` (P, T): (P, new).

    Every step runs all tokens so far: models whose layers do not all fit into memory have no cache of keys and values, and the
    five prompts cost less than a tenth of what likelihood on 65,536 tokens does.
    """
    ids = prompts
    for _ in range(new):
        states = next(opened.states([ids], on_pass))
        best = opened.head(states[:, -1:]).argmax(-1)
        ids = torch.cat([ids, best.to(ids)], dim=1)
    return ids[:, prompts.shape[1] :]


def until_end(ids: Sequence[int], config: Any) -> list[int]:
    """The ids before the first that ends a text by the model's configuration."""
    ends = getattr(config, "eos_token_id", None)
    ends = ends if isinstance(ends, Sequence) else (ends,)
    return list(ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))])
