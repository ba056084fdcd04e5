"""SVD-LLM: truncation-aware singular value decomposition (Wang et al., ICLR 2025, arXiv 2403.07378)."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.blocks import READS, Accounting, Work
from benchmarks.peers.budget import factor_ranks
from benchmarks.peers.low_rank import Factors, truncate, whitening
from benchmarks.peers.moments import Moment, collect, collect_layer, copied


def whitened_factors(weight: torch.Tensor, rank: int, second: torch.Tensor) -> Factors:
    """SVD of W S with S S' = E[xx']: the loss ||(W - L R) X||_F^2 / tokens is the sum of the dropped squared singular values
    (section 3.1, Theorem 3.2).
    """
    return truncate(weight, rank, whitening(second))


def updated_left(weight: torch.Tensor, right: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(out, r): argmin over U of ||W X - U R X||_F for ``right`` R (r, in), U = W M R' (R M R')^-1 with M = E[xx'] of the
    inputs that the compressed model really sees (section 3.2; the authors' code solves the same least squares).
    """
    inner = right @ second @ right.T
    return weight @ second @ right.T @ torch.linalg.pinv(inner, hermitian=True)


def svd_llm_w(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """SVD-LLM (W): whitening only."""
    work = Work(copied(model))
    _whiten(work, keep, collect(model, windows))
    return work.model, work.accounting()


def svd_llm(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """SVD-LLM with whitening from the dense model, then U updated layer by layer on the compressed model's activations.

    As in the authors' code (``whitening_local_update``) a layer's targets are its dense matrices' outputs on inputs from the
    already compressed layers before it, the layer itself being dense; unlike it (16 sequences), all calibration windows are
    used for the update.
    """
    work = Work(copied(model))
    dense = collect(model, windows)
    ranks = factor_ranks(work, keep)
    for index, block in enumerate(work.blocks):
        seen = collect_layer(work.model, windows, index)
        for name, slot in block.slots.items():
            rank = ranks[index, name]
            if rank is None:
                continue
            weight = slot.weight
            _, right = whitened_factors(weight, rank, dense[index][READS[name]].second)
            left = updated_left(weight, right, seen[READS[name]].second)
            work.put_factors(index, name, left, right)
    return work.model, work.accounting()


def _whiten(work: Work, keep: float, moments: list[dict[str, Moment]]) -> None:
    for (index, name), rank in factor_ranks(work, keep).items():
        if rank is not None:
            weight = work.blocks[index].slots[name].weight
            second = moments[index][READS[name]].second
            work.put_factors(index, name, *whitened_factors(weight, rank, second))
