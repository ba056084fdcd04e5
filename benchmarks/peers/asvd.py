"""ASVD: Activation-aware Singular Value Decomposition (Yuan et al., arXiv 2312.05821), and its rank search STRS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from allocator.profiling.likelihood import nll_nats
from benchmarks.peers.blocks import READS, Accounting, Work, bias_count
from benchmarks.peers.budget import factor_rank, factor_ranks, factors_count, target
from benchmarks.peers.low_rank import Factors, truncate
from benchmarks.peers.moments import Moment, collect, copied

ALPHA = 0.5
RATIOS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SEARCH_WINDOWS = 8

Key = tuple[int, str]
Ratios = dict[Key, float]
Entry = tuple[float, Key, float]


def scaled_factors(weight: torch.Tensor, rank: int, moment: Moment) -> Factors:
    """SVD of W S, S = diag(mean|x_j| ** alpha), alpha = 0.5 (section 3.2; 1e-6 is added against dead channels, as in the
    authors' code).
    """
    return truncate(weight, rank, moment.mean_absolute**ALPHA + 1e-6)


def asvd(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """ASVD with one ratio for all matrices."""
    work = Work(copied(model))
    _apply(work, factor_ranks(work, keep), collect(model, windows))
    return work.model, work.accounting()


def asvd_strs(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """ASVD with Sensitivity-based Truncation Rank Searching (section 3.4; authors' code: sensitivity.py, binary_search.py).

    Perplexity of the model with only one matrix cut, for ratios 0.4 to 0.9; all (matrix, ratio) in one list sorted by it; every
    matrix takes the smallest ratio on the harmless side of one cut. The cut is the first that fits the target. Two differences:
    parameters are counted by what ranks really store (the code sums nominal ratios), and the cut is found by trying all.
    Sensitivities come from the first 8 windows (32 of 2,048 tokens in the paper).
    """
    work = Work(copied(model))
    moments = collect(model, windows)
    sample, vocab = windows[:SEARCH_WINDOWS], model.config.vocab_size
    entries: list[Entry] = []
    for index, name, slot in work.matrices():
        dense = slot.weight
        for ratio in RATIOS:
            rank = factor_rank(ratio, *dense.shape)
            assert rank is not None
            left, right = scaled_factors(dense, rank, moments[index][READS[name]])
            slot.write(left @ right, None)
            loss = nll_nats(work.model, sample, vocab, prefix=0, tick=lambda: None)
            entries.append((loss, (index, name), ratio))
        slot.write(dense, None)
    ratios = threshold(
        entries,
        [(index, name) for index, name, _ in work.matrices()],
        lambda ratios: _count(work, ratios) <= target(work, keep),
    )
    shapes = {(index, name): slot.weight.shape for index, name, slot in work.matrices()}
    _apply(work, {key: factor_rank(ratio, *shapes[key]) for key, ratio in ratios.items()}, moments)
    return work.model, work.accounting()


def threshold(entries: list[Entry], matrices: list[Key], fits: Callable[[Ratios], bool]) -> Ratios:
    """The fewest of (loss, matrix, ratio) in order of loss so that every matrix at the least ratio among them fits.

    Raises:
        ValueError: all of them are not enough.
    """
    ratios = dict.fromkeys(matrices, 1.0)
    if fits(ratios):
        return ratios
    for _, key, ratio in sorted(entries, key=lambda entry: entry[0]):
        ratios[key] = min(ratio, ratios[key])
        if fits(ratios):
            return ratios
    raise ValueError(f"STRS knows no ratio below {RATIOS[0]}; the target is out of its reach")


def _count(work: Work, ratios: Ratios) -> int:
    return sum(
        factors_count(slot.weight.shape, factor_rank(ratios[i, name], *slot.weight.shape))
        + bias_count(slot, name)
        for i, name, slot in work.matrices()
    )


def _apply(work: Work, ranks: dict[Key, int | None], moments: list[dict[str, Moment]]) -> None:
    for (index, name), rank in ranks.items():
        if rank is not None:
            weight = work.blocks[index].slots[name].weight
            work.put_factors(index, name, *scaled_factors(weight, rank, moments[index][READS[name]]))
