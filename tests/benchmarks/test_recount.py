"""Plans of random jobs recounted from the shapes of compact models: no budget is ever exceeded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from allocator.plan.ask.budgets import parse_metric
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS, Latent
from allocator.plan.model.ranks import Ranks
from benchmarks.recount import Recount, check, compact_model, geometry_of, random_job
from tests.support.plans import ranks_of


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
    geometry = job.profile.model.geometry
    ranks = Ranks(*((rank,) * geometry.layers for rank in (2, 1, 3)))
    found = Recount(compact_model(job.config, ranks), torch.float32)
    for text in ("params", "block_params", "kv_bytes_per_token", "memory@context=9,weights=int8"):
        metric, right = parse_metric(text), geometry.replaced(bytes_per_param=4)
        assert found.of(metric) == CostModel(right).total(metric, ranks)
        other = 1 if geometry.kv_heads > 1 else geometry.heads
        wrong = right.replaced(hidden=geometry.hidden + 8, kv_heads=other)
        assert found.of(metric) != CostModel(wrong).total(metric, ranks)


METRICS = [
    *(Metric("params"), Metric("block_params"), Metric("kv_bytes_per_token")),
    *(Metric("flops_per_token", context=n, phase=p) for n in (1, 50) for p in ("prefill", "decode")),
    *(Metric("memory", context=30, weights=kind) for kind in (None, "bfloat16", "int8", "int4packed")),
]


FAMILIES = [
    ("llama", {"num_key_value_heads": 2, "attention_bias": True}),
    ("mistral", {"num_key_value_heads": 4, "sliding_window": 20, "head_dim": 8}),
    ("gpt2", {}),
    ("mixtral", {"num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2}),
]


def shape_of(family: str, options: dict[str, Any]) -> tuple[Any, Geometry]:
    """A config of two layers, and its geometry in bfloat16."""
    sizes = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, max_position_embeddings=128, **options)
    return config, geometry_of(config, torch.bfloat16)


@pytest.mark.parametrize(("form", "other"), [("joint", 3), ("latent", 4)])
@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_costs_of_latents_are_those_of_the_tensors(
    family: str, options: dict[str, Any], form: Latent, other: int
) -> None:
    config, geometry = shape_of(family, options)
    costs, component = CostModel(geometry), LATENTS[form]
    dense = {c: geometry.full_rank(c) for c in COMPONENTS}
    for rank in geometry.latent_ranks(form):
        rows = [
            {"layer": 0, **dense, component: rank, f"{component}_form": form},
            {"layer": 1, **dense, component: other},
        ]
        ranks = ranks_of(rows)
        found = Recount(compact_model(config, ranks), torch.bfloat16)
        for metric in METRICS:
            assert costs.total(metric, ranks) == found.of(metric), (rank, metric.label)


@pytest.mark.parametrize(("family", "options"), FAMILIES)
def test_latent_queries_are_smaller_than_whole_ones_and_cache_as_much(
    family: str, options: dict[str, Any]
) -> None:
    _, geometry = shape_of(family, options)
    costs, dense = CostModel(geometry), Ranks.dense(geometry)
    for rank in geometry.latent_ranks("latent"):
        rows = dense.layers()
        rows[0] |= {"qk": rank, "qk_form": "latent"}
        ranks = ranks_of(rows)
        params, cache = Metric("params"), Metric("kv_bytes_per_token")
        assert costs.total(params, ranks) < costs.total(params, dense)
        assert costs.total(cache, ranks) == costs.total(cache, dense)
