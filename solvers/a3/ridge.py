"""Ridge regression around weights that are already good, with the ridge chosen by two-fold cross-validation.

    W <- argmin  ‖ x W − t ‖² + λ ‖W − W_0‖²

with an intercept where there is a bias. W_0 is the limit λ → ∞, so the training error never rises. λ is a share of each input's
own second moment; keeping W_0 is one of the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from solvers.a3.linalg import solve_damped

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""λ as shares of each input's own second moment that cross-validation chooses from, besides keeping the weights themselves."""


@dataclass(frozen=True)
class Refit:
    """The choice of cross-validation for one projection."""

    share: float | None
    """λ as a share of each input's own second moment; None: the one-shot weights were kept."""
    error_ratio: float
    """Held-out squared error against that of the one-shot weights."""


class Ridge:
    """Normal equations of targets (N, D) by inputs (N, p), summed in two folds."""

    def __init__(self, *, intercept: bool) -> None:
        self._intercept = intercept
        self._grams: list[Any] = [0, 0]
        self._crosses: list[Any] = [0, 0]
        self._energies = [0.0, 0.0]
        self._counts = [0, 0]

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, fold: int) -> None:
        inputs, targets = inputs.flatten(0, -2), targets.flatten(0, -2)
        if self._intercept:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        self._grams[fold] = self._grams[fold] + (inputs.T @ inputs).double()
        self._crosses[fold] = self._crosses[fold] + (inputs.T @ targets).double()
        self._energies[fold] += float(targets.double().square().sum())
        self._counts[fold] += len(inputs)

    def fit(self, start_pD: torch.Tensor, bias_D: torch.Tensor | None) -> tuple[torch.Tensor, Any, Refit]:
        """New weights, new bias and what was chosen."""
        start = start_pD if bias_D is None else torch.cat([start_pD, bias_D[None]])
        errors: dict[float | None, float] = {None: 0.0, **dict.fromkeys(SHARES, 0.0)}
        for train, test in ((0, 1), (1, 0)):
            gram, missing = self._normal(start, (train,))
            errors[None] += self._error(start, test)
            for share in SHARES:
                errors[share] += self._error(start + solve_damped(gram, missing, share), test)
        best = min(errors, key=lambda share: errors[share])
        record = Refit(best, errors[best] / errors[None] if errors[None] > 0 else 1.0)
        fitted = start if best is None else start + solve_damped(*self._normal(start, (0, 1)), best)
        return (fitted, None, record) if bias_D is None else (fitted[:-1], fitted[-1], record)

    def _normal(self, start: torch.Tensor, folds: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Second moment of the inputs, and their cross moment with what ``start`` leaves of the targets."""
        count = sum(self._counts[fold] for fold in folds)
        gram = sum(self._grams[fold] for fold in folds) / count
        cross = sum(self._crosses[fold] for fold in folds) / count
        return gram, cross - gram @ start

    def _error(self, weights: torch.Tensor, fold: int) -> float:
        """Σ ‖t − x W‖² over a fold."""
        fitted = (weights * (self._grams[fold] @ weights - 2 * self._crosses[fold])).sum()
        return self._energies[fold] + float(fitted)
