"""Linear algebra on second moments that survives rank deficiency."""

from __future__ import annotations

import torch


def factor(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``T`` and ``T^+`` with ``gram = T'T`` for symmetric positive semidefinite (..., h, h), in float64.

    Directions whose eigenvalue is below ``h * eps * largest`` carry no data (dead dimensions, fewer tokens than dimensions);
    they are zero in both factors, so nothing is ever divided by rounding noise.
    """
    gram = (gram + gram.mT) / 2
    values, vectors = torch.linalg.eigh(gram)
    floor = values[..., -1:].clamp_min(0) * gram.shape[-1] * torch.finfo(gram.dtype).eps
    alive = values > floor
    root = values.clamp_min(0).sqrt() * alive
    inverse = torch.where(alive, 1 / root.clamp_min(torch.finfo(gram.dtype).tiny), torch.zeros_like(root))
    return root.unsqueeze(-1) * vectors.mT, vectors * inverse.unsqueeze(-2)


def tail_sums(energies: torch.Tensor) -> torch.Tensor:
    """``out[r] = sum(energies[r:])`` for r = 0..n: what is lost when the first r of n sorted terms are kept."""
    zero = energies.new_zeros(1)
    return torch.cat([energies.flip(-1).cumsum(-1).flip(-1), zero])


def damping(features: int, count: int) -> float:
    """How much of its mean diagonal is added to a second moment before it is solved with.

    Least squares on ``count`` rows and ``features`` columns overfits by features / count of its residual, and a ridge of the
    same share shrinks by as much what the data cannot tell from noise. So the rule is that ratio: next to nothing
    with many tokens, more than the moment itself where there are fewer tokens than features.
    """
    return max(features / max(count, 1), 1e-8)


def damped(gram: torch.Tensor, share: float) -> torch.Tensor:
    """``gram`` (..., n, n) plus ``share`` of its mean diagonal; a moment of zeros becomes the identity, so it can be solved."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    level = torch.where(mean > 0, mean * share, torch.ones_like(mean))
    raised = gram.clone(memory_format=torch.contiguous_format)
    raised.diagonal(dim1=-2, dim2=-1).add_(level)
    return raised


def damped_inverse(gram: torch.Tensor, share: float) -> torch.Tensor:
    """``(gram + share of its mean diagonal)^-1`` for symmetric positive semidefinite (n, n), in one matrix of memory."""
    work = damped(gram, share).mT  # LAPACK's layout: both steps stay where they are
    torch.linalg.cholesky(work, out=work)
    return torch.cholesky_inverse(work, out=work).mT


def solve_damped(gram: torch.Tensor, right: torch.Tensor, share: float) -> torch.Tensor:
    """``(gram + share of its mean diagonal)^-1 right`` for symmetric positive semidefinite (n, n) and (n, D).

    Where rounding leaves the damped moment indefinite, the share is raised tenfold until Cholesky succeeds.
    """
    if gram.shape[-1] == 0:
        return right
    while True:
        root, failed = damped(gram, share).mT, torch.empty((), dtype=torch.int32, device=gram.device)
        torch.linalg.cholesky_ex(root, out=(root, failed))
        if not failed.any():
            return torch.cholesky_solve(right, root)
        share = max(share, 1e-12) * 10
