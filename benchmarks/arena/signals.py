"""Signals of the dense model on the fit windows, for the rules that need more than curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from allocator.plan.ask.constraints import Place
from allocator.plan.model.geometry import COMPONENTS
from allocator.profiling.logits import batches
from benchmarks.arena.problem import Signals
from benchmarks.arena.shares import OUTLIER_MULTIPLES
from solvers.a3.compress import LayerSolution
from solvers.model.surgery import OpenModel

FISHER_WINDOWS = 64
_PARTS = {
    "qk": ("q_proj", "k_proj"),
    "ov": ("v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def signals(opened: OpenModel, windows: torch.Tensor, solutions: Sequence[LayerSolution]) -> Signals:
    """All of them, for fit windows (W, T) and the solutions of all layers."""
    influence, norms = _forward(opened, windows)
    return Signals(
        tokens=windows.numel(),
        fisher=_fisher(opened, windows[:FISHER_WINDOWS]),
        influence=influence,
        outliers={multiple: _outliers(opened, norms, multiple) for multiple in OUTLIER_MULTIPLES},
        tails={
            (layer, c): tuple(solution.losses(c).tolist())
            for layer, solution in enumerate(solutions)
            for c in COMPONENTS
        },
    )


def _projections(opened: OpenModel) -> Iterator[tuple[Place, str, Any]]:
    """(place, name, linear module) of every matrix that a rank can cut."""
    for layer in range(len(opened.source)):
        attention, mlp = opened.attention(layer), getattr(opened.layer(layer), "mlp", None)
        for component in COMPONENTS:
            owner = mlp if component == "mlp" else attention
            for name in _PARTS[component]:
                module = getattr(owner, name, None)
                if isinstance(module, torch.nn.Linear):
                    yield (layer, component), name, module


def _fisher(opened: OpenModel, windows: torch.Tensor) -> dict[Place, float]:
    """Mean over a component's weights of sqrt(E[gradient^2]), one window a sample; 0 where nothing can be cut."""
    parts = list(_projections(opened))
    flags = [(parameter, parameter.requires_grad) for parameter in opened.model.parameters()]
    squares = [torch.zeros_like(module.weight, dtype=torch.float64) for _, _, module in parts]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for _, _, module in parts:
            module.weight.requires_grad_(True)
        for window in windows.to(opened.device):
            logits = opened.model(window.unsqueeze(0), use_cache=False).logits[0].float()
            loss = torch.nn.functional.cross_entropy(logits[:-1], window[1:])
            gradients = torch.autograd.grad(loss, [module.weight for _, _, module in parts])
            for total, gradient in zip(squares, gradients, strict=True):
                total += gradient.double().square()
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    sums = {(n, c): (0.0, 0) for n in range(len(opened.source)) for c in COMPONENTS}
    for (place, _, _), total in zip(parts, squares, strict=True):
        total_before, count = sums[place]
        sums[place] = (total_before + float((total / len(windows)).sqrt().sum()), count + total.numel())
    return {place: total / count if count else 0.0 for place, (total, count) in sums.items()}


@torch.no_grad()
def _forward(
    opened: OpenModel, windows: torch.Tensor
) -> tuple[tuple[float, ...], dict[tuple[Place, str], torch.Tensor]]:
    """Block Influence of each layer (ShortGPT, arXiv 2403.03853), and E[x_j^2] of each matrix's inputs."""
    layers = len(opened.source)
    cosines, energies = [0.0] * layers, {}
    handles = []
    for place, name, module in _projections(opened):
        total = energies[place, name] = torch.zeros(
            module.in_features, dtype=torch.float64, device=opened.device
        )

        def hook(module: Any, args: Any, total: torch.Tensor = total) -> None:
            total += args[0].double().square().flatten(0, -2).sum(0)

        handles.append(module.register_forward_pre_hook(hook))
    try:
        for part in batches(windows, opened.config.vocab_size):
            hidden, calls = opened.start(part)
            for layer in range(layers):
                following = opened.advance(hidden, calls, layer, layer + 1)
                cosine = torch.nn.functional.cosine_similarity(hidden.double(), following.double(), dim=-1)
                cosines[layer] += float(cosine.sum())
                hidden = following
    finally:
        for handle in handles:
            handle.remove()
    count = windows.numel()
    return tuple(1 - total / count for total in cosines), {key: e / count for key, e in energies.items()}


@torch.no_grad()
def _outliers(
    opened: OpenModel, energies: dict[tuple[Place, str], torch.Tensor], multiple: float
) -> tuple[float, ...]:
    """The share of |W_ij| ||x_j|| in each layer above ``multiple`` times their mean over the whole layer."""
    scores: list[list[torch.Tensor]] = [[] for _ in opened.source]
    for place, name, module in _projections(opened):
        scores[place[0]].append((module.weight.abs() * energies[place, name].sqrt()).flatten())
    shares = []
    for parts in scores:
        layer_scores = torch.cat(parts)
        shares.append(float((layer_scores > multiple * layer_scores.mean()).double().mean()))
    return tuple(shares)
