"""Linear algebra on second moments that survives rank deficiency and dimensions of very different size.

Real models have a few dimensions that are thousands of times larger than the others (massive activations). A ridge that is
one number for all of them is either nothing to the large ones or everything to the small ones. So damping is always a share of
*each dimension's own* second moment: a ridge on standardized inputs, and no different when one dimension is rescaled.
"""

from __future__ import annotations

import torch

SOURCE_EPS = torch.finfo(torch.float32).eps
"""Activations are float32, so a moment knows nothing below the square of this share of its largest direction."""

_NOISE = 64.0
"""How many times that level, per dimension, counts as noise."""
_SILENT = 1e-6
"""Share of the median of all that carry data below which a dimension's energy counts as that much."""
_LARGEST_SHARE = 1e6
"""Damping beyond this means that the moment is no moment."""


def factor(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``T`` and ``T^+`` with ``gram = T'T`` for symmetric positive semidefinite (..., h, h), in float64.

    Directions whose eigenvalue is below the noise of float32 activations carry no data (dead dimensions, fewer tokens than
    dimensions); they are zero in both factors, so nothing is ever divided by noise.
    """
    gram = (gram + gram.mT) / 2
    values, vectors = torch.linalg.eigh(gram)
    size, eps = gram.shape[-1], torch.finfo(gram.dtype).eps
    floor = values[..., -1:].clamp_min(0) * size * max(eps, _NOISE * SOURCE_EPS**2)
    alive = values > floor
    root = values.clamp_min(0).sqrt() * alive
    inverse = torch.where(alive, 1 / root.clamp_min(torch.finfo(gram.dtype).tiny), torch.zeros_like(root))
    return root.unsqueeze(-1) * vectors.mT, vectors * inverse.unsqueeze(-2)


def tail_sums(energies: torch.Tensor) -> torch.Tensor:
    """``out[r] = sum(energies[r:])`` for r = 0..n: what is lost when the first r of n sorted terms are kept."""
    zero = energies.new_zeros(1)
    return torch.cat([energies.flip(-1).cumsum(-1).flip(-1), zero])


def damping(features: int, count: int) -> float:
    """Which share of each dimension's own second moment is added to it before it is solved with.

    Least squares on ``count`` rows and ``features`` columns overfits by features / count of its residual, and a ridge of the
    same share of standardized columns shrinks by as much what the data cannot tell from noise. So the rule is that ratio: next
    to nothing with many tokens, more than the moment itself where there are fewer tokens than features.
    """
    return max(features / max(count, 1), 1e-8)


def damped(gram: torch.Tensor, share: float) -> torch.Tensor:
    """``gram`` (..., n, n) plus ``share`` of its own diagonal; a moment of zeros becomes the identity, so it can be solved."""
    raised = gram.clone(memory_format=torch.contiguous_format)
    raised.diagonal(dim1=-2, dim2=-1).add_(_levels(gram.diagonal(dim1=-2, dim2=-1), share))
    return raised


def _levels(diagonal: torch.Tensor, share: float) -> torch.Tensor:
    """The numbers that are added to the diagonal. Dimensions that are all but dead are damped like larger ones: they would
    else be given weights as large as they are small, which nothing in half precision or in eight bits survives.
    """
    usual = torch.where(diagonal > 0, diagonal, torch.nan).nanmedian(-1, keepdim=True).values
    levels = share * torch.maximum(diagonal, _SILENT * usual)
    return torch.where(usual > 0, levels, torch.ones_like(diagonal))


def silence_constants(centred: torch.Tensor, missing: torch.Tensor, energies: torch.Tensor) -> None:
    """Take dimensions that hardly vary out of a centred moment (n, n) and what is to be explained (n, D), in place.

    A constant input has a variance of rounding's own sign; it explains nothing that the intercept does not.

    Args:
        energies: the diagonal before the mean was taken away.
    """
    silent = centred.diagonal() <= _SILENT * energies
    centred[silent] = 0
    centred[:, silent] = 0
    missing[silent] = 0


def damped_inverse(gram: torch.Tensor, share: float) -> torch.Tensor:
    """``(gram + share of its own diagonal)^-1`` for symmetric positive semidefinite (n, n), in one matrix of memory."""
    work = damped(gram, share).mT  # LAPACK's layout: both steps stay where they are
    torch.linalg.cholesky(work, out=work)
    return torch.cholesky_inverse(work, out=work).mT


def damped_factor(gram: torch.Tensor, share: float) -> torch.Tensor:
    """Lower triangular L with ``L L' = gram + share of its own diagonal``, for (n, n).

    Where rounding leaves that indefinite, the share is raised tenfold until Cholesky succeeds.

    Raises:
        ArithmeticError: the moment holds NaN or infinity, or is not positive semidefinite.
    """
    while share <= _LARGEST_SHARE:
        root, failed = damped(gram, share).mT, torch.empty((), dtype=torch.int32, device=gram.device)
        torch.linalg.cholesky_ex(root, out=(root, failed))
        if not failed.any() and root.diagonal().isfinite().all():
            return root
        share = max(share, 1e-12) * 10
    raise ArithmeticError(
        f"a second moment of {len(gram)} dimensions cannot be solved with: it is not finite"
    )


def solve_damped(gram: torch.Tensor, right: torch.Tensor, share: float) -> torch.Tensor:
    """``(gram + share of its own diagonal)^-1 right`` for symmetric positive semidefinite (n, n) and (n, D).

    Raises:
        ArithmeticError: as ``damped_factor``.
    """
    if gram.shape[-1] == 0:
        return right
    return torch.cholesky_solve(right, damped_factor(gram, share))
