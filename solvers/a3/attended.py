"""The values of all heads as query heads attend to them: the second moment that one latent for all of them is chosen by."""

from __future__ import annotations

from typing import Any

import torch

from solvers.a3.metric import attention_rows, sampled_rows

ROWS = 64
"""Query rows of a window that are looked at: all 256 gave the same losses to a hundredth, 16 in one layer a seventh more."""


def attended_rows(
    attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """``softmax(A_i) [v_1 .. v_K]`` of sampled rows and every query head i, (B, H R, K h): the values of all heads by the
    attention of one.

    Args:
        query, key: (B, H, T, r) and (B, K, T, r) as they enter the scores.
        value: (B, K, T, h), bias included.
        mask: as ``solvers.a3.metric.attention_rows`` takes it.
    """
    probabilities, _ = attention_rows(attention, query, key, sampled_rows(query.shape[2], ROWS), mask)
    beside = value.transpose(1, 2).flatten(2)
    return probabilities.flatten(1, 2) @ beside
