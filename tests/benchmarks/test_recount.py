"""Plans of random jobs recounted from the shapes of compact models: no budget is ever exceeded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allocator.plan.ask.budgets import parse_metric
from allocator.plan.model.costs import CostModel
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks
from benchmarks.recount import Recount, check, compact_model, random_job


@pytest.mark.parametrize("part", range(4))
def test_no_budget_of_a_random_job_is_exceeded(part: int) -> None:
    planned = 0
    for seed in range(50 * part, 50 * (part + 1)):
        answered, wrong = check(random_job(seed))
        assert not wrong, f"job {seed}: {wrong}"
        planned += answered
    assert planned > 25


def test_a_limit_that_is_told_wrong_is_found() -> None:
    """The recount does not ask the cost model: another geometry's promises differ from it."""
    job = next(job for job in map(random_job, range(100)) if job.config.model_type == "llama")
    geometry = Geometry.from_document(job.profile["model"]["geometry"])
    ranks = Ranks(*((rank,) * geometry.layers for rank in (2, 1, 3)))
    found = Recount(compact_model(job.config, ranks), torch.float32)
    for text in ("params", "block_params", "kv_bytes_per_token", "memory@context=9,weights=int8"):
        metric, right = parse_metric(text), replace(geometry, bytes_per_param=4)
        assert found.of(metric) == CostModel(right).total(metric, ranks)
        wrong = replace(right, hidden=geometry.hidden + 8, kv_heads=2 * geometry.kv_heads)
        assert found.of(metric) != CostModel(wrong).total(metric, ranks)
