"""Findings of solving a layer that every consumer needs: the order of its neurons, and the components that keep A3's solution.

Never worse than the paper: on windows that no moment has seen, each component's error under a method is compared with that of
A3 at the same ranks, and where A3's is smaller it is taken. Errors are weighted token by token with the inverse energy of
the residual stream that they are added to, since the next norm divides by it: a first token whose activations are massive
counts like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from solvers.a3.compress import Component, LayerSolution, Solve, solve_layer
from solvers.a3.local import Inside, errors
from solvers.a3.mlp import MLPOrder
from solvers.a3.mlp_elimination import MLPRefit
from solvers.a3.moments import LayerMoments
from solvers.a3.steps import A3
from solvers.model.surgery import OpenModel
from solvers.weights import LayerWeights

NOISE = 1e-8
"""Errors below this share of the output's energy are float32's: dead neurons cost nothing, whoever leaves them out."""

SHARES = (0.5, 0.875)
"""Shares of the full rank at which the two solutions are compared."""


@dataclass(frozen=True)
class Solved:
    """One layer's findings. ``ratios``: component -> the method's held-out error over A3's, geometric mean."""

    order: MLPOrder | None
    paper: frozenset[Component] = frozenset()
    ratios: dict[Component, float] = field(default_factory=dict)


def solution_of(
    weights: LayerWeights, moments: LayerMoments, solve: Solve, solved: Solved | None = None
) -> LayerSolution:
    """All ranks of one layer; with ``solved`` neither the elimination nor the comparison is done again."""
    if solved is None:
        return solve(weights, moments)
    solution = solve(weights, moments, order=solved.order)
    return with_paper(solution, weights, moments, solved.paper)


def with_paper(
    solution: LayerSolution, weights: LayerWeights, moments: LayerMoments, components: frozenset[Component]
) -> LayerSolution:
    """The solution with A3's in place of some components'."""
    if not components:
        return solution
    paper = solve_layer(weights, moments, A3)
    return replace(solution, **{name: getattr(paper, name) for name in components})


def compare(
    opened: OpenModel,
    index: int,
    batches: Sequence[Inside],
    candidate: LayerSolution,
    paper: LayerSolution,
    components: Sequence[Component],
    dtype: torch.dtype,
) -> dict[Component, float]:
    """Component -> error of ``candidate`` over that of ``paper``, geometric mean over ``SHARES`` of the full rank."""
    weights = [1 / inside.caught["in"].square().sum(-1).clamp_min(1e-12) for inside in batches]

    def weighted(parts: Sequence[torch.Tensor]) -> float:
        squares = (part.square().sum(-1) * weight for part, weight in zip(parts, weights, strict=True))
        return sum(float(square.double().sum()) for square in squares)

    def error(solution: LayerSolution, component: Component, rank: int) -> float:
        return weighted(errors(opened, index, batches, solution, component, rank, dtype))

    ratios: dict[Component, float] = {}
    for component in components:
        full = {
            "qk": candidate.dense.qk_rank,
            "ov": candidate.dense.ov_rank,
            "mlp": candidate.dense.mlp_rank,
        }[component]
        ranks = sorted({max(2, int(full * share) // 2 * 2) for share in SHARES} - {full})
        noise = max(NOISE * weighted([inside.output(component) for inside in batches]), 1e-30)
        logs = [
            math.log((error(candidate, component, rank) + noise) / (error(paper, component, rank) + noise))
            for rank in ranks
        ]
        ratios[component] = math.exp(sum(logs) / len(logs)) if logs else 1.0
    return ratios


def solve(
    opened: OpenModel,
    index: int,
    moments: LayerMoments,
    method: Solve,
    batches: Sequence[Inside],
    *,
    fixed: Sequence[Component] = (),
    dtype: torch.dtype,
) -> Solved:
    """Solve one layer by ``method`` and compare with A3 on held-out ``batches`` of its dense inputs."""
    weights = opened.source[index].to(device=opened.device)
    solution = method(weights, moments)
    paper = solve_layer(weights, moments, A3)
    components: list[Component] = [name for name in ("qk", "ov", "mlp") if name not in fixed]
    ratios = compare(opened, index, batches, solution, paper, components, dtype)
    order = solution.mlp.neuron_order if isinstance(solution.mlp, MLPRefit) else solution.mlp
    return Solved(order, frozenset(name for name, ratio in ratios.items() if not ratio <= 1), ratios)


def save(path: Path, solved: Solved) -> None:
    """Write one layer's findings to a safetensors file."""
    assert solved.order is not None
    tensors = {"order_m": solved.order.order_m.int().cpu(), "losses": solved.order.losses.cpu()}
    facts = {f"ratio.{name}": repr(ratio) for name, ratio in solved.ratios.items()}
    facts |= {"paper": ",".join(sorted(solved.paper)), "energy": repr(solved.order.energy)}
    save_file(tensors, path, metadata=facts)


def load(path: Path, device: torch.device) -> Solved:
    """Read one layer's findings."""
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        order = MLPOrder(
            losses=file.get_tensor("losses").to(device),
            energy=float(facts["energy"]),
            order_m=file.get_tensor("order_m").long().to(device),
        )
    paper = frozenset(name for name in facts["paper"].split(",") if name)
    ratios = {
        name.removeprefix("ratio."): float(value)
        for name, value in facts.items()
        if name.startswith("ratio.")
    }
    return Solved(order, paper, ratios)
