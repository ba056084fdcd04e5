"""What solving finds once: used again it gives the same layers; A3's solution stays where it is better on held-out windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allocator.methods.registry import METHODS
from solvers.a3 import moments as moments_module
from solvers.a3 import solved as findings
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.local import Inside, errors
from solvers.a3.mlp import MLPOrder
from solvers.a3.solved import Solved, solution_of
from solvers.a3.steps import A3, A3_PLUS
from solvers.model.surgery import OpenModel, open_model
from solvers.weights import LayerWeights
from tests.support.models import CASES, case_id, tiny, token_ids

LAYER = 1
OURS = METHODS["a3+"].solve


def made(family: str = "llama", **options: Any) -> tuple[OpenModel, Any, list[Inside]]:
    """An opened model, the moments of one layer, and that layer's inside on other windows."""
    opened = open_model(tiny(family, **options))
    found = moments_module.collect(opened, token_ids(24, 30, seed=5))[LAYER]
    hidden, calls = opened.start(token_ids(4, 30))
    hidden = opened.advance(hidden, calls, 0, LAYER)
    with torch.no_grad():
        return opened, found, [Inside.of(opened, LAYER, hidden, calls[LAYER])]


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_errors_are_differences_of_two_passes_of_the_layer(family: str, options: dict[str, Any]) -> None:
    opened, found, inside = made(family, **options)
    solution = solve_layer(opened.source[LAYER], found, A3_PLUS)
    fixed = opened.family.fixed
    for component, rank in (("qk", 4), ("ov", 3), ("mlp", 20)):
        if component in fixed:
            continue
        (ours,) = errors(opened, LAYER, inside, solution, component, rank, torch.float32)  # type: ignore[arg-type]
        opened.put(LAYER, solution.compressed(**{component: rank}))
        hidden, call = inside[0].caught["in"], _call(opened, inside[0])
        with torch.no_grad():
            cut = Inside.of(opened, LAYER, hidden, call)
        opened.reset(LAYER)
        expected = cut.output(component) - inside[0].output(component)  # type: ignore[arg-type]
        size = float(inside[0].output(component).abs().max())  # type: ignore[arg-type]
        assert torch.allclose(ours, expected, atol=1e-6 * size), component


def _call(opened: OpenModel, inside: Inside) -> dict[str, Any]:
    return opened.start(token_ids(4, 30))[1][LAYER]


def test_used_again_it_gives_the_same_layer(tmp_path: Path) -> None:
    opened, found, inside = made(kv_heads=2)
    solved = findings.solve(opened, LAYER, found, OURS, inside, dtype=torch.float32)
    findings.save(tmp_path / "layer", solved)
    again = findings.load(tmp_path / "layer", torch.device("cpu"))
    assert again.ratios == solved.ratios
    assert again.paper == solved.paper
    whole = findings.with_paper(
        solve_layer(opened.source[LAYER], found, A3_PLUS), opened.source[LAYER], found, solved.paper
    )
    quick = solution_of(opened.source[LAYER], found, OURS, again)
    for component, rank in (("qk", 4), ("ov", 3), ("mlp", 20)):
        assert torch.equal(quick.losses(component), whole.losses(component))  # type: ignore[arg-type]
        one, other = (each.compressed(**{component: rank}) for each in (quick, whole))
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, other.tensors()[name]), name


def test_the_paper_s_solution_is_taken_where_ours_is_worse() -> None:
    opened, found, inside = made(kv_heads=2)

    def spoiled(weights: LayerWeights, moments: Any, *, order: MLPOrder | None = None) -> LayerSolution:
        """``a3+`` keeps the neurons that matter least, unrefitted."""
        solution = OURS(weights, moments, order=order)
        worst = MLPOrder(solution.mlp.losses, solution.mlp.energy, solution.mlp.order_m.flip(0))
        return replace(solution, mlp=worst)

    solved = findings.solve(opened, LAYER, found, spoiled, inside, dtype=torch.float32)
    assert solved.paper >= {"mlp"}
    assert solved.ratios["mlp"] > 1
    taken = solution_of(opened.source[LAYER], found, OURS, solved).compressed(mlp=20)
    paper = solve_layer(opened.source[LAYER], found, A3).compressed(mlp=20)
    for name, tensor in paper.tensors().items():
        assert torch.equal(tensor, taken.tensors()[name]), name


def test_errors_of_dead_neurons_prefer_nobody() -> None:
    """Both leave them out; what is left of either is rounding, whose ratio says nothing."""
    opened, found, inside = made(kv_heads=2)
    solved = findings.solve(opened, LAYER, found, OURS, inside, fixed=("qk", "ov"), dtype=torch.float32)
    assert set(solved.ratios) == {"mlp"}
    solution = solve_layer(opened.source[LAYER], found, A3)
    same = findings.compare(opened, LAYER, inside, solution, solution, ["qk", "ov", "mlp"], torch.float32)
    assert all(ratio == pytest.approx(1.0) for ratio in same.values())


def test_nothing_solved_before_is_solved_now() -> None:
    opened, found, _ = made(kv_heads=2)
    one = solution_of(opened.source[LAYER], found, METHODS["a3"].solve, None)
    other = solution_of(opened.source[LAYER], found, OURS, Solved(None, frozenset(("qk", "ov", "mlp"))))
    assert torch.equal(one.mlp.order_m, other.mlp.order_m)
