"""SVD-LLM: truncation-aware singular value decomposition (Wang et al., ICLR 2025, arXiv 2403.07378), and its second version."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import torch

from benchmarks.peers.blocks import READS, Accounting, Work
from benchmarks.peers.budget import factor_rank, factor_ranks, factors_count, largest_ratio
from benchmarks.peers.low_rank import Factors, truncate, whitening
from benchmarks.peers.moments import copied
from benchmarks.peers.spectra import Key, factor_limit, put_ranks, shapes, whitened
from benchmarks.peers.stream import Stream

MOST_REMOVED = 0.95
"""The largest share that SVD-LLM V2's rule removes of any matrix."""


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
    work, dense = Work(copied(model)), Work(model)
    if keep < 1:
        put_ranks(work, dense, whitened(model, windows), factor_ranks(work, keep))
    return work.model, work.accounting()


def svd_llm(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """SVD-LLM with whitening from the dense model, then U updated layer by layer on the compressed model's activations.

    As in the authors' code (``whitening_local_update``) a layer's targets are its dense matrices' outputs on inputs from the
    already compressed layers before it, the layer itself being dense; unlike it (16 sequences), all calibration windows are
    used for the update.
    """
    work = Work(copied(model))
    ranks = factor_ranks(work, keep)
    if not any(ranks.values()):
        return work.model, work.accounting()
    decompositions, stream = whitened(model, windows), Stream(work.model, windows)
    for index, block in enumerate(work.blocks):
        moments = stream.moments()
        for name, slot in block.slots.items():
            rank = ranks[index, name]
            if rank is not None:
                right = decompositions[index, name].factors(rank)[1].double()
                left = updated_left(slot.weight, right, moments[READS[name]].second)
                work.put_factors(index, name, left, right)
        stream.step()
    return work.model, work.accounting()


def svd_llm_v2(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """SVD-LLM V2 (Wang et al., NAACL 2025): whitening only, ratios by ``removed_shares`` (Algorithm 1).

    The paper's other change, an SVD in place of Cholesky's factor, gives the same matrices wherever the moment has full rank.
    """
    work, dense = Work(copied(model)), Work(model)
    if keep >= 1:
        return work.model, work.accounting()
    decompositions, sizes = whitened(model, windows), shapes(dense)
    count = windows.numel()

    def ranks(ratio: float) -> dict[Key, int | None]:
        """At a ratio kept of every type of matrices."""
        result: dict[Key, int | None] = {}
        for name in dense.blocks[0].slots:
            keys = [key for key in sizes if key[1] == name]
            uniform = [factor_rank(ratio, *sizes[key]) or min(sizes[key]) for key in keys]
            lost = [
                float(decompositions[key].lost()[rank] * count) ** 0.5
                for key, rank in zip(keys, uniform, strict=True)
            ]
            for key, removed in zip(keys, removed_shares(lost, 1 - ratio), strict=True):
                result[key] = factor_rank(1 - removed, *sizes[key])
        return result

    def stored(ratio: float) -> int:
        ranks_at = ranks(ratio)
        return sum(factors_count(shape, ranks_at[key]) for key, shape in sizes.items())

    put_ranks(work, dense, decompositions, ranks(largest_ratio(stored, factor_limit(dense, keep))))
    return work.model, work.accounting()


def removed_shares(lost: Sequence[float], mean: float) -> list[float]:
    """The share of each matrix of a type that is removed: N mean s / sum(s), s = 1 / log(lost), lost the Frobenius loss
    ||(W - L R) X||_F at the uniform ratio, over all tokens.

    Where some loss is 1 or less the rule says nothing (its logarithm is not positive): uniform then, as in others' code.
    """
    if min(lost) <= 1 + 1e-9:
        return [mean] * len(lost)
    scores = [1 / log(loss) for loss in lost]
    return [min(MOST_REMOVED, len(lost) * mean * score / sum(scores)) for score in scores]
