"""Choices of ``a3+`` in the metric of the model's own loss: the Fisher weighting of a block's output error.

*Derivation.* An error e (D,) that a layer's attention or MLP puts into its output changes the model's loss by
``g'e + ½ e'He``. Over tokens the first term averages out for a model that is trained, and the Hessian H of a negative
log-likelihood is in expectation the Fisher information F = E[g g'], g the gradient with respect to that output (Martens 2020,
arXiv 1412.1193; here the empirical one: targets are the text's own next tokens). With errors and gradients of a token taken as
independent, the loss to be minimised is

    E[e' F e] = E‖ e F^½ ‖²      in the place of      E‖e‖².

For e = X (W − W̃) this is the same problem with the output matrix ``W F^½``: W_o F^½ where the bases of the values are chosen,
W_down F^½ where neurons are eliminated. An *unconstrained* refit stays what it is: the normal equations
``X̃'X̃ W̃ F = X̃'X W F`` have the solution of plain least squares for any invertible F, and a ridge that is weighed as the error
is weighed does not change that. So F decides what is kept, never what a kept part becomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.linalg import damped
from solvers.a3.moments import LayerMoments
from solvers.a3.steps import Steps
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights

TOKENS = 32 * 256
"""Windows of the fit text, evenly spread over it: 32 of the usual length."""
DAMPING = 1e-2
"""Share of F's mean diagonal that is added to it."""
_BATCH = 4


@dataclass(frozen=True)
class Fisher:
    """E[g g'] of one layer, (D, D) in float64: symmetric, positive semidefinite, not yet damped."""

    attention_DD: torch.Tensor
    mlp_DD: torch.Tensor


def sampled(windows: torch.Tensor) -> torch.Tensor:
    """At most ``TOKENS`` tokens' worth of these windows (W, T), evenly spread."""
    count = min(len(windows), max(1, TOKENS // windows.shape[1]))
    return windows[(torch.arange(count) * len(windows)) // count]


def fisher(opened: OpenModel, windows: torch.Tensor) -> list[Fisher]:
    """F of every layer's attention and MLP output over windows (W, T), the model at full rank.

    A token's gradient is that of the sum of its window's NLL: of its own prediction and of all later ones that it changes.
    """
    sums: dict[str, torch.Tensor] = {}
    for part in windows.split(_BATCH):
        with torch.enable_grad(), _outputs(opened) as outputs:
            logits = opened.model(input_ids=part, use_cache=False).logits[:, :-1]
            nll = functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            gradients = torch.autograd.grad(nll, list(outputs.values()))
        for name, gradient in zip(outputs, gradients, strict=True):
            rows = gradient.flatten(0, 1).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
    means = {name: total / windows.numel() for name, total in sums.items()}
    return [Fisher(means[f"attention {n}"], means[f"mlp {n}"]) for n in range(len(opened.source))]


@contextmanager
def _outputs(opened: OpenModel) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of o_proj and down_proj of every layer in the passes within, with gradients."""
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            caught[name] = output if output.requires_grad else output.requires_grad_()

        return hook

    handles = []
    for index in range(len(opened.source)):
        handles.append(opened.attention(index).o_proj.register_forward_hook(keep(f"attention {index}")))
        handles.append(opened.layer(index).mlp.down_proj.register_forward_hook(keep(f"mlp {index}")))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def root(fisher_DD: torch.Tensor) -> torch.Tensor:
    """Symmetric square root of F, damped and then scaled to a mean diagonal of 1: a scale chooses nothing."""
    raised = damped(fisher_DD, DAMPING)
    values, vectors = torch.linalg.eigh(raised / raised.diagonal().mean())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def solve_weighed(
    weights: LayerWeights, moments: LayerMoments, steps: Steps, metric: Fisher, plain: LayerSolution
) -> LayerSolution:
    """``plain`` with OV bases and MLP order chosen in F's metric; what is done with the choice is unchanged.

    Solutions hold bases, orders and moments, and are applied to the dense weights; so it is enough to solve on weighed ones.
    """
    weighed = replace(
        weights,
        o_HrD=weights.o_HrD.double() @ root(metric.attention_DD),
        down_mD=weights.down_mD.double() @ root(metric.mlp_DD),
    )
    solved = solve_layer(weighed, moments, steps)
    return replace(plain, ov=solved.ov, mlp=solved.mlp)
