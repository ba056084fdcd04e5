"""Plain SVD, and the truncation that plain SVD, ASVD, SVD-LLM and Palu share: SVD of W S, then S^-1 on the right."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.blocks import Accounting, Work
from benchmarks.peers.budget import factor_ranks
from benchmarks.peers.moments import copied

Factors = tuple[torch.Tensor, torch.Tensor]


def truncate(weight: torch.Tensor, rank: int, scale: torch.Tensor | None = None) -> Factors:
    """(out, r) and (r, in) whose product L R minimises ||(W - L R) S||_F (Eckart-Young); S = I without ``scale`` (in, in).

    A vector ``scale`` stands for diag(scale). S must be invertible.
    """
    scaled = weight if scale is None else weight @ scale if scale.ndim == 2 else weight * scale
    U, sigma, Vh = torch.linalg.svd(scaled, full_matrices=False)
    root = sigma[:rank].sqrt()
    left, right = U[:, :rank] * root, root.unsqueeze(1) * Vh[:rank]
    if scale is None:
        return left, right
    return left, right / scale if scale.ndim == 1 else torch.linalg.solve(scale, right, left=False)


def whitening(second: torch.Tensor, *, damp: float = 1e-6) -> torch.Tensor:
    """Lower Cholesky factor S of an input moment, S S' = E[xx'] (SVD-LLM, arXiv 2403.07378v5, section 3.1).

    As in the authors' code a moment that is not positive definite gets (damp - its least eigenvalue) on its diagonal; ``damp``
    is relative to the largest eigenvalue here (theirs is absolute, for sums over tokens), so that scaling x changes nothing.
    """
    factor, failed = torch.linalg.cholesky_ex(second)
    values = torch.linalg.eigvalsh(second)
    if not failed and values[0] > 1e-12 * values[-1]:
        return factor
    added = damp * values[-1].clamp_min(torch.finfo(second.dtype).tiny) - values[0].clamp_max(0)
    return torch.linalg.cholesky(second + added * torch.eye(len(second), dtype=second.dtype))


def svd(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """Truncated SVD of every matrix at one ratio, k = floor(keep m n / (m + n)); sees no data."""
    work = Work(copied(model))
    for (index, name), rank in factor_ranks(work, keep).items():
        if rank is not None:
            work.put_factors(index, name, *truncate(work.blocks[index].slots[name].weight, rank))
    return work.model, work.accounting()
