"""Ridge regression around weights that are already good, with the ridge chosen by two-fold cross-validation.

    W <- argmin  ‖ x W − t ‖² + λ ‖W − W_0‖²

with an intercept where there is a bias. W_0 is the limit λ → ∞, so the training error never rises. λ is a share of each input's
own second moment; keeping W_0 is one of the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce

import torch

from solvers.a3.grams import add_lower, mirrored
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
    """Normal equations by inputs (N, p) of what weights leave of targets (N, D), summed in two folds.

    What is left is taken token by token: as a difference of sums it would drown in their rounding where it is little.
    """

    def __init__(self, start_pD: torch.Tensor, bias_D: torch.Tensor | None) -> None:
        self._intercept = bias_D is not None
        self._start = start_pD if bias_D is None else torch.cat([start_pD, bias_D[None]])
        zeros, size = partial(self._start.new_zeros, dtype=torch.float64), len(self._start)
        self._grams = [zeros(size, size) for _ in range(2)]
        """Summed on and below the diagonal alone until they are asked for."""
        self._crosses = [zeros(self._start.shape) for _ in range(2)]
        self._energies = [0.0, 0.0]
        self._counts = [0, 0]

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, fold: int) -> None:
        inputs, targets = inputs.flatten(0, -2), targets.flatten(0, -2)
        if self._intercept:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
        missing = targets - inputs @ self._start.to(inputs)
        add_lower(self._grams[fold], inputs)
        self._crosses[fold] += inputs.T @ missing
        self._energies[fold] += float(missing.double().square().sum())
        self._counts[fold] += len(inputs)

    def fit(self) -> tuple[torch.Tensor, torch.Tensor | None, Refit]:
        """New weights, new bias and what was chosen, at the end of all rows."""
        self._grams = [mirrored(gram) for gram in self._grams]
        errors: dict[float | None, float] = {None: sum(self._energies), **dict.fromkeys(SHARES, 0.0)}
        for train, test in ((0, 1), (1, 0)):
            moments = self._moments((train,))
            for share in SHARES:
                errors[share] += self._error(solve_damped(*moments, share), test)
        best = min(errors, key=lambda share: errors[share])
        record = Refit(best, max(errors[best], 0.0) / errors[None] if errors[None] > 0 else 1.0)
        fitted = self._start
        if best is not None:
            fitted = fitted + solve_damped(*self._moments((0, 1)), best)
        return (fitted[:-1], fitted[-1], record) if self._intercept else (fitted, None, record)

    def _moments(self, folds: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Second moment of the inputs, and their cross moment with what is missing."""
        count = sum(self._counts[fold] for fold in folds)
        gram, cross = (
            reduce(torch.add, map(sums.__getitem__, folds)) for sums in (self._grams, self._crosses)
        )
        return gram / count, cross / count

    def _error(self, change: torch.Tensor, fold: int) -> float:
        """Σ ‖t − x (start + change)‖² over a fold."""
        gained = (change * (2 * self._crosses[fold] - self._grams[fold] @ change)).sum()
        return self._energies[fold] - float(gained)
