"""Singular value decompositions that every ratio truncates, and models written at any ranks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.peers.blocks import READS, Work, bias_count, dense_count
from benchmarks.peers.budget import target
from benchmarks.peers.low_rank import Factors, whitening
from benchmarks.peers.moments import collect
from benchmarks.peers.once import STORABLE, once

Key = tuple[int, str]
Ranks = Mapping[Key, int | None]
"""(layer, matrix) -> its rank; None: the matrix itself."""


@dataclass(frozen=True)
class Spectrum:
    """A matrix as ``left`` (out, n) diag(``sigma``) ``right`` (n, in), the largest singular value first; sigma in float64."""

    left: torch.Tensor
    sigma: torch.Tensor
    right: torch.Tensor

    def factors(self, rank: int) -> Factors:
        """(out, r) and (r, in), sigma in equal parts on both."""
        root = self.sigma[:rank].sqrt().to(self.left.dtype)
        return self.left[:, :rank] * root, root.unsqueeze(1) * self.right[:rank]

    def lost(self) -> torch.Tensor:
        """(n + 1,): the sum of the squared singular values that each rank drops, from rank 0."""
        energy = self.sigma.square()
        return torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])


STORABLE.append(Spectrum)

Spectra = Mapping[Key, Spectrum]


def spectrum(
    weight: torch.Tensor, root: torch.Tensor, rows: torch.Tensor | None = None, *, dtype: torch.dtype
) -> Spectrum:
    """Decompose R' W S and take R'^-1 and S^-1 back: truncations minimise ||R' (W - L R) S||_F (Eckart-Young).

    Args:
        weight: W (out, in).
        root: lower S (in, in).
        rows: lower R (out, out); none: the identity.
        dtype: of the two sides.
    """
    scaled = weight @ root if rows is None else rows.T @ weight @ root
    U, sigma, Vh = torch.linalg.svd(scaled, full_matrices=False)
    left = U if rows is None else torch.linalg.solve_triangular(rows.T, U, upper=True)
    right = torch.linalg.solve_triangular(root, Vh, upper=False, left=False)
    return Spectrum(left.to(dtype), sigma, right.to(dtype))


def spectra(
    model: Any, root_of: Callable[[int, str], torch.Tensor], rows_of: Callable[[Key], Any]
) -> Spectra:
    """The decompositions of all matrices.

    Args:
        root_of: (layer, activation) -> S; asked for once for all matrices that read it.
        rows_of: matrix -> R or None.
    """
    result: dict[Key, Spectrum] = {}
    roots: dict[tuple[int, str], torch.Tensor] = {}
    for index, name, slot in Work(model).matrices():
        place = (index, READS[name])
        if place not in roots:
            roots = {place: root_of(*place)}
        result[index, name] = spectrum(
            slot.weight, roots[place], rows_of((index, name)), dtype=slot.module.weight.dtype
        )
    return result


def whitened(model: Any, windows: torch.Tensor) -> Spectra:
    """The decompositions of W S with S S' = E[xx'] (SVD-LLM, section 3.1)."""

    def make() -> Spectra:
        moments = collect(model, windows)
        return spectra(model, lambda index, kind: whitening(moments[index][kind].second), lambda key: None)

    result: Spectra = once("whitened", model, windows, make)
    return result


def put_ranks(work: Work, dense: Work, decompositions: Spectra, ranks: Ranks) -> None:
    """Write every matrix of ``work`` at its rank; those without one as they are in ``dense``."""
    for index, name, slot in dense.matrices():
        rank = ranks[index, name]
        if rank is not None:
            work.put_factors(index, name, *decompositions[index, name].factors(rank))
        else:
            work.blocks[index].slots[name].write(slot.weight, None)
            work.stored[index, name] = dense_count(slot, name)


def equal_rank(shape: tuple[int, ...]) -> int:
    """The largest rank at which two factors are no larger than the matrix."""
    out, inner = shape
    return out * inner // (out + inner)


def shapes(work: Work) -> dict[Key, tuple[int, int]]:
    """(out, in) of every matrix."""
    result = {}
    for index, name, slot in work.matrices():
        out, inner = slot.weight.shape
        result[index, name] = out, inner
    return result


def factor_limit(work: Work, keep: float) -> float:
    """Numbers that factors and dense matrices may hold together: biases stay whole and are counted."""
    return target(work, keep) - sum(bias_count(slot, name) for _, name, slot in work.matrices())
