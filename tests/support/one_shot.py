"""One-shot solutions of a small model's layers, all at the same ranks."""

from __future__ import annotations

from typing import Any

import torch

from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.a3.steps import A3_PLUS
from solvers.model.surgery import OpenModel


def one_shot(opened: OpenModel, ids: torch.Tensor, **ranks: int) -> list[Any]:
    """``a3+`` without feedback, fitted on ``ids`` (W, T); components that are not named keep their full rank."""
    return [
        solve_layer(opened.source[index], layer_moments, A3_PLUS).compressed(**ranks)
        for index, layer_moments in enumerate(moments.collect(opened, ids))
    ]
