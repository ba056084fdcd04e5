"""LEMS: ranks by an integer program over layer-wise error models (Thoma et al., ICML 2026), on KFAC-SVD.

The error of a matrix at a rank is the share of its whitened energy that is dropped, scaled so that at a tenth of its equal
rank it is the KL that the whole model really loses there, times a bias for depth: an early error is carried through more
layers. Read in the authors' code (github.com/lems-svd/lems: compression/search/lems.py, _sensitivity_base.py; preset
kfac_lems).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from allocator.profiling.logits import row_slices
from benchmarks.peers.blocks import Accounting, Work
from benchmarks.peers.budget import factors_count
from benchmarks.peers.kfac import kfac
from benchmarks.peers.moments import copied
from benchmarks.peers.once import once
from benchmarks.peers.spectra import Key, Spectra, Spectrum, equal_rank, factor_limit, put_ranks, shapes
from benchmarks.peers.stream import Tails

SEARCH_WINDOWS = 8
MEASURED = 0.1
"""The one ratio to the equal rank at which each matrix is measured."""
LEAST, MOST = 0.1, 0.95
"""Ratios to the equal rank that a search may choose from; besides the whole matrix."""
LEAST_ABOVE_HALF = 0.3
"""The least ratio where half of the parameters or more are kept."""
STEP, STEPS = 8, 8
"""Ranks are multiples of 8, as in the preset, where a matrix has so many of them."""
TEMPERATURE = 0.6
SKIPPED = 0.125
"""Share of a window's first tokens that no KL is taken over."""
PRESET = (0.0, 5.0)
TRIALS = 10
ALPHAS, GAMMAS = (0.0, 3.0), (0.0, 7.0)


def depth_bias(layer: int, layers: int, alpha: float, gamma: float) -> float:
    """1 + gamma h, h falling from 1 at the first layer to 0 at the last: the sum over k from the layer on of k ** -alpha."""
    tails = np.cumsum([(k + 1.0) ** -alpha for k in range(layers)][::-1])[::-1]
    return 1 + gamma * float((tails[layer] - tails[-1]) / max(tails[0] - tails[-1], 1e-12))


def candidates(shape: tuple[int, int], keep: float) -> list[int]:
    """Ranks of a matrix that a search for ``keep`` may choose from."""
    full = equal_rank(shape)
    smallest = max(LEAST, LEAST_ABOVE_HALF) if keep >= 0.5 else LEAST
    step = STEP if full >= STEP * STEPS else 1
    return [rank for rank in range(1, full) if smallest <= rank / full <= MOST and rank % step == 0]


def energy_shares(spectrum: Spectrum, full: int) -> torch.Tensor:
    """(n + 1,): dropped energy at every rank, 1 at the rank that is measured."""
    lost = spectrum.lost()
    measured = max(1, int(MEASURED * full))
    return lost / torch.maximum(lost[measured], 1e-6 * lost[0])


def choose(costs: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], limit: float) -> list[int]:
    """One option of each group, so that costs stay within ``limit`` and errors add up to least (HiGHS; the authors: Gurobi).

    Raises:
        ValueError: the cheapest options are too dear.
    """
    groups = np.repeat(np.arange(len(costs)), [len(group) for group in costs])
    cost, error = (np.concatenate([np.asarray(group, float) for group in table]) for table in (costs, errors))
    one_each = csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))))
    limited = LinearConstraint(csr_array(cost[None] / limit), ub=1)
    cheapest = sum(min(group) for group in costs)
    if cheapest > limit:
        raise ValueError(
            f"the least this search can store is {cheapest} parameters, the target is {limit:.0f}"
        )
    solution = milp(
        error / max(float(error.max()), np.finfo(float).tiny),
        integrality=np.ones(len(groups), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), limited],
        options={"mip_rel_gap": 1e-5, "time_limit": 180},
    )
    assert solution.x is not None, solution.message
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return [
        int(np.argmax(solution.x[start : start + len(group)]))
        for start, group in zip(starts, costs, strict=True)
    ]


def search_windows(windows: torch.Tensor) -> torch.Tensor:
    """Windows that losses are measured on, evenly spread."""
    return windows[:: max(1, len(windows) // SEARCH_WINDOWS)][:SEARCH_WINDOWS]


class Losses:
    """KL to the dense model on the search windows, at temperature 0.6 and without their first tokens."""

    def __init__(self, model: Any, windows: torch.Tensor) -> None:
        self._tails = Tails(model, search_windows(windows))
        self._dense = [self._log_p(self._kept(logits)) for logits in self._tails.logits(model, 0)]

    def of(self, model: Any, first: int = 0) -> float:
        """The KL of a model that is dense before layer ``first``, nats/token."""
        total, count = 0.0, 0
        for dense, logits in zip(self._dense, self._tails.logits(model, first), strict=True):
            kept = self._kept(logits)
            for rows in row_slices(dense):
                log_p = self._log_p(kept[rows])
                total += float((dense[rows].exp() * (dense[rows] - log_p)).sum())
            count += len(dense)
        return total / count

    @staticmethod
    def _log_p(logits: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits / TEMPERATURE, dim=-1)

    @staticmethod
    def _kept(logits: torch.Tensor) -> torch.Tensor:
        """(N, V) of the tokens behind the skipped ones."""
        return logits[:, int(SKIPPED * logits.shape[1]) :].flatten(0, 1)


def measured_losses(model: Any, windows: torch.Tensor, decompositions: Spectra) -> Mapping[Key, float]:
    """KL of the model with one matrix at a tenth of its equal rank, for each."""

    def make() -> Mapping[Key, float]:
        work, losses, result = Work(copied(model)), Losses(model, windows), {}
        for index, name, slot in work.matrices():
            weight = slot.weight
            rank = max(1, int(MEASURED * equal_rank(tuple(weight.shape))))
            left, right = decompositions[index, name].factors(rank)
            slot.write(left @ right, None)
            result[index, name] = losses.of(work.model, index)
            slot.write(weight, None)
        return result

    losses: Mapping[Key, float] = once("lems", model, windows, make)
    return losses


def lems(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """LEMS on KFAC-SVD; the depth bias of the least KL on the search windows.

    As in the code alpha and gamma are drawn ten times (its sampler's first ten draws are uniform); the preset's are one more
    candidate. Sizes are what ranks really store; the code counts nominal ratios. 2,048 tokens are searched on, of 65,536.
    """
    work, dense = Work(copied(model)), Work(model)
    if keep >= 1:
        return work.model, work.accounting()
    decompositions = kfac(model, windows)
    points, sizes, limit = (
        measured_losses(model, windows, decompositions),
        shapes(dense),
        factor_limit(dense, keep),
    )
    options: dict[Key, list[int | None]] = {
        key: [None, *candidates(size, keep)] for key, size in sizes.items()
    }
    costs = [[factors_count(sizes[key], rank) for rank in ranks] for key, ranks in options.items()]
    errors = {}
    for key, ranks in options.items():
        share = energy_shares(decompositions[key], equal_rank(sizes[key]))
        errors[key] = [0.0 if rank is None else points[key] * float(share[rank]) for rank in ranks]
    draw, losses = random.Random(42), Losses(model, windows)
    best: dict[Key, int | None] = {}
    least_loss = float("inf")
    for alpha, gamma in [PRESET, *((draw.uniform(*ALPHAS), draw.uniform(*GAMMAS)) for _ in range(TRIALS))]:
        biased = [
            [depth_bias(layer, len(work.blocks), alpha, gamma) * error for error in errors[layer, name]]
            for layer, name in options
        ]
        picked = choose(costs, biased, limit)
        chosen = {
            key: choices[number] for (key, choices), number in zip(options.items(), picked, strict=True)
        }
        put_ranks(work, dense, decompositions, chosen)
        loss = losses.of(work.model)
        if not best or loss < least_loss:
            best, least_loss = chosen, loss
    put_ranks(work, dense, decompositions, best)
    return work.model, work.accounting()
