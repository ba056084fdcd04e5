"""Roots of second moments that survive rank deficiency."""

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
