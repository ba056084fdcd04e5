"""Ridge regression around given weights, literally: least squares on the tokens, and held-out errors token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from solvers.a3.ridge import SHARES

Rows = tuple[torch.Tensor, torch.Tensor]
"""Inputs (N, p) and targets (N, D)."""


def stacked(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts."""
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])


def with_intercept(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs with a column of ones."""
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)


def ridge(rows: Rows, start: torch.Tensor, share: float | None) -> torch.Tensor:
    """argmin ‖x W − t‖² + Σ_i λ_i ‖(W − start)_i‖² with λ_i the share of ‖x_i‖²; None: ``start``.

    What is solved for is the change, of least norm: weights of inputs that are always 0 stay.
    """
    if share is None:
        return start
    inputs, targets = rows
    levels = (share * inputs.square().sum(0)).sqrt().diag()
    missing = torch.cat([targets - inputs @ start, torch.zeros_like(start)])
    return start + torch.linalg.lstsq(torch.cat([inputs, levels]), missing, driver="gelsd").solution


def held_out_errors(folds: tuple[Rows, Rows], start: torch.Tensor) -> dict[float | None, float]:
    """Share, or None for ``start`` itself, -> squared error of each fold by weights fitted to the other, summed."""
    errors: dict[float | None, float] = {}
    for share in (None, *SHARES):
        errors[share] = sum(
            float((targets - inputs @ ridge(other, start, share)).square().sum())
            for (inputs, targets), other in zip(folds, reversed(folds), strict=True)
        )
    return errors
