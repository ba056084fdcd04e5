"""The metric ``weight_bytes`` against the tensors of a cut model, and under a budget."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.plan.ask.budgets import parse_budget
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from tests.support.models import tiny, token_ids


@pytest.fixture
def cut() -> tuple[Any, CostModel, Ranks]:
    """A Llama of two layers at different ranks."""
    model = tiny("llama")
    geometry = Geometry(
        **FAMILIES["llama"].geometry(model.config),
        total_params=sum(p.numel() for p in model.parameters()),
        bytes_per_param=8,
    )
    opened, ranks = open_model(model), Ranks((4, 2), (3, 5), (17, geometry.intermediate))
    for index, found in enumerate(moments.collect(opened, token_ids(4, 20))):
        solution = solve_layer(opened.source[index], found)
        opened.put(index, solution.compressed(qk=ranks.qk[index], ov=ranks.ov[index], mlp=ranks.mlp[index]))
    return opened.model, CostModel(geometry), ranks


def test_it_is_the_bytes_of_the_tensors(cut: tuple[Any, CostModel, Ranks]) -> None:
    model, costs, ranks = cut
    numbers = sum(p.numel() for p in model.parameters())
    assert costs.total(Metric("weight_bytes"), ranks) == 8 * numbers
    assert costs.total(Metric("weight_bytes", weights="bfloat16"), ranks) == 2 * numbers


def test_bits_of_a_component_count(cut: tuple[Any, CostModel, Ranks]) -> None:
    _, costs, ranks = cut
    eight = ranks.with_bits([(None, None, 8), (None, None, None)])
    assert costs.total(Metric("weight_bytes"), eight) < costs.total(Metric("weight_bytes"), ranks)


def test_a_budget_on_it_is_read() -> None:
    budget = parse_budget("weight_bytes=200MiB@weights=bf16")
    assert (budget.metric.label, budget.absolute) == ("weight_bytes@weights=bfloat16", 200 << 20)
