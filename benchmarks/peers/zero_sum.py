"""ZS-SVD: Zero Sum SVD (Abbasi et al., ICML 2026, arXiv 2602.02848).

Singular values of all whitened matrices are dropped one by one, in each matrix the smallest first. Dropping one changes the
loss by -sigma dL/dsigma to first order; the next to go is the smallest such change of the sign that brings their sum back to
zero.
Read in the authors' code (github.com/mint-vu/Zero-Sum-SVD: compression/planning.py, importance.py, corrections.py,
utils/correction_utils.py; scripts/run_one_shot.sh, run_multistage.sh).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch.nn import functional

from benchmarks.peers.blocks import Accounting, Work
from benchmarks.peers.low_rank import whitening
from benchmarks.peers.moments import BACKWARD_WINDOWS, copied, gathered
from benchmarks.peers.spectra import Key, Ranks, Spectra, factor_limit, put_ranks, shapes, spectra, whitened

GRADIENT_TOKENS = 2048
"""One sequence of the authors', whose gradient scores all singular values."""
CORRECTION_TOKENS = 1024
STAGES = 6
FLOOR, FLOOR_BELOW = 0.3, 0.5
"""Share of its break-even rank that every matrix keeps, and the ratio below which it does; as in their scripts."""


def break_even(shape: tuple[int, int]) -> int:
    """The largest rank at which two factors are smaller than the matrix."""
    out, inner = shape
    return max(1, (out * inner - 1) // (out + inner))


def mean_gradients(model: Any, windows: torch.Tensor) -> dict[Key, torch.Tensor]:
    """Gradients of the mean cross entropy over windows (W, T), (out, in) of every matrix in its type; ``model`` is used up."""
    work = Work(model)
    model.requires_grad_(False)
    for _, _, slot in work.matrices():
        slot.module.weight.requires_grad_(True)
    for part in windows.split(BACKWARD_WINDOWS):
        logits = model(part, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
        (loss / windows[:, 1:].numel()).backward()
    return {
        (index, name): slot.gradient.to(slot.module.weight.dtype) for index, name, slot in work.matrices()
    }


def changes(
    decompositions: Spectra, work: Work, gradients: Mapping[Key, torch.Tensor]
) -> dict[Key, torch.Tensor]:
    """-sigma_i dL/dsigma_i of every singular value. sigma_i scales left_i right_i, so dL/dsigma_i = left_i' G right_i'."""
    result = {}
    for index, name, _ in work.matrices():
        spectrum, gradient = decompositions[index, name], gradients[index, name].double()
        slope = ((spectrum.left.double().T @ gradient) * spectrum.right.double()).sum(1)
        result[index, name] = -spectrum.sigma * slope
    return result


def zero_sum(
    sizes: Mapping[Key, tuple[int, int]], change: Mapping[Key, torch.Tensor], limit: float, floor: float = 0.0
) -> dict[Key, int | None]:
    """Ranks at which factors and whole matrices hold at most ``limit`` numbers.

    A matrix takes no less before it breaks even, and stays whole if it does not. Where the code counts that step one
    rank late, it is counted as it is here.

    Args:
        floor: share of the break-even rank that no matrix goes below.

    Raises:
        ValueError: nothing is left to drop.
    """
    values = {key: entries.tolist() for key, entries in change.items()}
    ranks = {key: len(entries) for key, entries in values.items()}
    stored, even = (
        sum(out * inner for out, inner in sizes.values()),
        {k: break_even(s) for k, s in sizes.items()},
    )
    heaps: tuple[list[Any], list[Any]] = ([], [])

    def push(key: Key) -> None:
        if ranks[key] > max(1, ceil(floor * even[key])):
            value = values[key][ranks[key] - 1]
            heapq.heappush(heaps[value >= 0], (abs(value), key, value))

    for key in values:
        push(key)
    total = 0.0
    while stored > limit:
        heap = heaps[total <= 0] or heaps[total > 0]
        if not heap:
            raise ValueError(f"the least ZS-SVD can store is {stored} parameters, the target is {limit:.0f}")
        _, key, value = heapq.heappop(heap)
        total += value
        ranks[key] -= 1
        out, inner = sizes[key]
        if ranks[key] == even[key]:
            stored += even[key] * (out + inner) - out * inner
        elif ranks[key] < even[key]:
            stored -= out + inner
        push(key)
    return {key: rank if rank <= even[key] else None for key, rank in ranks.items()}


def zs_svd(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """ZS-SVD in one shot."""
    return _compress(model, windows, keep, 1)


def zs_svd_stages(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """ZS-SVD in six stages: between two of them every cut matrix is pulled towards the dense one along its loss gradient.

    Each stage whitens and scores what the last one left, and cuts it to the same target.
    """
    return _compress(model, windows, keep, STAGES)


def _compress(model: Any, windows: torch.Tensor, keep: float, stages: int) -> tuple[Any, Accounting]:
    work, dense = Work(copied(model)), Work(model)
    if keep >= 1:
        return work.model, work.accounting()
    sizes, limit, draw = shapes(dense), factor_limit(dense, keep), random.Random(3)
    floor = FLOOR if keep < FLOOR_BELOW else 0.0
    scored = windows[: _windows(windows, GRADIENT_TOKENS)]
    for stage in range(stages):
        current = Work(copied(work.model)) if stage else dense
        decompositions = _whitened(current.model, windows) if stage else whitened(model, windows)
        gradients = mean_gradients(copied(current.model), scored)
        ranks = zero_sum(sizes, changes(decompositions, current, gradients), limit, floor)
        put_ranks(work, dense, decompositions, ranks)
        if stage < stages - 1:
            count = _windows(windows, CORRECTION_TOKENS)
            some = windows[sorted(draw.sample(range(len(windows)), count))]
            _pull(work, dense, ranks, mean_gradients(copied(work.model), some))
    return work.model, work.accounting()


def _whitened(model: Any, windows: torch.Tensor) -> Spectra:
    moments = gathered(model, windows)
    return spectra(model, lambda index, kind: whitening(moments[index][kind].second), lambda key: None)


def _pull(work: Work, dense: Work, ranks: Ranks, gradients: Mapping[Key, torch.Tensor]) -> None:
    """W + g <g, W_dense - W> / <g, g> for every matrix that was cut."""
    for index, name, slot in work.matrices():
        if ranks[index, name] is not None:
            weight, gradient = slot.weight, gradients[index, name].double()
            gap = dense.blocks[index].slots[name].weight - weight
            share = (gradient * gap).sum() / (gradient.square().sum() + 1e-6)
            slot.write(weight + share * gradient, None)


def _windows(windows: torch.Tensor, tokens: int) -> int:
    return min(len(windows), max(1, tokens // windows.shape[1]))
