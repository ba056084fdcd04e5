"""The cost model against a count of real tensors, and against the formulas evaluated by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.baselines import uniform
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.feasibility import feasibility_program
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.families import FAMILIES
from solvers.model.surgery import open_model
from tests.support.models import CASES, SLIDING_QWEN, case_id, given_cache, tiny, token_ids


def geometry_of(model: Any) -> Geometry:
    return Geometry(
        **FAMILIES[model.config.model_type].geometry(model.config),
        total_params=sum(p.numel() for p in model.parameters()),
        bytes_per_param=8,
    )


def ranks_for(geometry: Geometry) -> Ranks:
    """Two layers cut differently wherever the family allows it."""
    ranks = {"qk": (4, 2), "ov": (3, 5), "mlp": (17, geometry.intermediate)}
    return Ranks(**{c: (geometry.full_rank(c),) * 2 if c in geometry.fixed else ranks[c] for c in COMPONENTS})


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_parameters_and_cache_equal_the_tensors_of_a_cut_model(family: str, options: dict[str, Any]) -> None:
    model, ids = tiny(family, **options), token_ids(4, 20)
    costs = CostModel(geometry_of(model))
    opened = open_model(model)
    ranks = ranks_for(costs.geometry)
    for index, found in enumerate(moments.collect(opened, ids)):
        solution = solve_layer(opened.source[index], found)
        opened.put(index, solution.compressed(qk=ranks.qk[index], ov=ranks.ov[index], mlp=ranks.mlp[index]))
    assert costs.total(Metric("params"), ranks) == sum(p.numel() for p in opened.model.parameters())

    def held(cache: Any, tokens: int) -> int:
        with torch.no_grad():
            opened.model(ids[:1, :tokens], use_cache=True, **given_cache(opened.model, cache))
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)

    per_token = costs.total(Metric("kv_bytes_per_token"), ranks)
    assert per_token * 6 == held(DynamicCache(config=opened.config), 6)
    # Longer than the windows: a static cache holds exactly as many positions as a layer can see.
    weights = sum(p.numel() for p in opened.model.parameters()) * 8
    static = held(StaticCache(config=opened.config, max_cache_len=20), 20)
    assert static == per_token * 20 or any(costs.geometry.windows)
    assert costs.total(Metric("memory", batch=3, context=20), ranks) == weights + 3 * static


@pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)
def test_dense_block_parameters_are_all_that_shrinks(family: str, options: dict[str, Any]) -> None:
    model = tiny(family, **options)
    costs = CostModel(geometry_of(model))
    weights = [FAMILIES[family].read_layer(model.config, layer) for layer in FAMILIES[family].layers(model)]
    shrinking = sum(
        tensor.numel()
        for layer in weights
        for name, tensor in vars(layer).items()
        if tensor is not None and name not in ("o_bias_D", "down_bias_D", "pairs")
    )
    if "mlp" in FAMILIES[family].fixed:
        shrinking += sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert costs.total(Metric("block_params"), Ranks.dense(costs.geometry)) == shrinking


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_flops_are_the_matrix_products_of_one_token(phase: str) -> None:
    costs = CostModel(geometry_of(tiny("llama", kv_heads=2)))
    ranks, context = Ranks(qk=(4, 8), ov=(3, 8), mlp=(17, 40)), 51
    attended = (context + 1) / 2 if phase == "prefill" else context
    expected = 2.0 * 24 * 61  # the head
    for qk, ov, mlp in zip(ranks.qk, ranks.ov, ranks.mlp, strict=True):
        projections = 24 * qk * (4 + 2) + 24 * ov * 2 + 4 * ov * 24 + 3 * 24 * mlp
        expected += 2 * projections + 2 * 4 * (qk + ov) * attended
    assert costs.total(Metric("flops_per_token", context=context, phase=phase), ranks) == expected


@pytest.mark.parametrize("context", [5, 7, 8, 50])
def test_flops_of_layers_with_windows_count_what_is_attended(context: int) -> None:
    costs = CostModel(geometry_of(tiny("qwen2", **SLIDING_QWEN)))
    assert costs.geometry.windows == (0, 7)
    ranks = Ranks(qk=(4, 6), ov=(3, 6), mlp=(17, 40))
    for phase in ("prefill", "decode"):
        expected = 2 * 24 * 61
        for qk, ov, mlp, window in zip(ranks.qk, ranks.ov, ranks.mlp, (10**9, 7), strict=True):
            projections = 24 * qk * (4 + 2) + 24 * ov * 2 + 4 * ov * 24 + 3 * 24 * mlp
            positions = [min(n, window) for n in range(1, context + 1)]
            twice = 2 * positions[-1] if phase == "decode" else math.ceil(2 * sum(positions) / context)
            expected += 2 * projections + 4 * (qk + ov) * twice
        assert costs.total(Metric("flops_per_token", context=context, phase=phase), ranks) == expected


def test_weights_and_cache_are_counted_in_the_types_that_are_asked_for() -> None:
    costs = CostModel(geometry_of(tiny("llama", kv_heads=2)))
    ranks = Ranks(qk=(4, 8), ov=(3, 8), mlp=(17, 40))
    params = costs.total(Metric("params"), ranks)
    elements = costs.total(Metric("kv_bytes_per_token"), ranks) // 8
    for name, size in (("float32", 4), ("float16", 2), ("float8", 1), ("int8", 1)):
        assert costs.total(Metric("kv_bytes_per_token", cache=name), ranks) == elements * size
        memory = Metric("memory", batch=3, context=20, weights="bfloat16", cache=name)
        assert costs.total(memory, ranks) == 2 * params + 3 * 20 * elements * size
    own = Metric("memory", batch=3, context=20, cache="int8")
    assert costs.total(own, ranks) == 8 * params + 3 * 20 * elements


@pytest.mark.parametrize("kind", ["int8", "int4", "int4packed"])
def test_charges_rise_with_the_rank_and_are_never_below_the_cost(kind: str) -> None:
    geometry = geometry_of(tiny("llama", kv_heads=2)).replaced(hidden=64, intermediate=96)
    costs, metric = CostModel(geometry), Metric("memory", context=5, weights=kind)
    for component in COMPONENTS:
        for ranks in (geometry.candidate_ranks(component), geometry.candidate_ranks(component)[3::4]):
            exact = [costs.cost_of(metric, component, 0, rank) for rank in ranks]
            charged = costs.charges(metric, component, 0, ranks)
            assert list(charged) == [max(exact[: n + 1]) for n in range(len(ranks))]
            assert kind != "int8" or list(charged) == exact


def test_experts_count_whole_in_parameters_and_when_active_in_flops() -> None:
    model = tiny("mixtral")
    costs = CostModel(geometry_of(model))
    assert costs.geometry.candidate_ranks("mlp") == [40]
    dense = Ranks.dense(costs.geometry)
    projections = 2 * (24 * 8 * (4 + 2) + 24 * 8 * 2 + 4 * 8 * 24)
    one_expert, router = 2 * 3 * 24 * 40, 2 * 24 * 3
    assert costs.total(Metric("block_params"), dense) == projections + 3 * one_expert
    attended = 2 * 2 * 4 * (8 + 8) * 1
    assert costs.total(Metric("flops_per_token", context=1), dense) == (
        2 * 24 * 61 + 2 * projections + 2 * 2 * one_expert + 2 * router + attended
    )


def test_components_left_whole_have_one_rank_in_every_plan() -> None:
    costs = CostModel(geometry_of(tiny("qwen3", **SLIDING_QWEN)))
    assert costs.geometry.candidate_ranks("qk") == [8]
    assert Geometry.stored(json.loads(json.dumps(costs.geometry.document))) == costs.geometry
    budgets = parse_budgets(["block_params=0.7"])
    found = uniform(costs, budgets)
    assert found is not None
    assert found.qk == (8, 8)
    assert found.ov[0] < 8
    groups, _ = feasibility_program(costs, budgets)
    assert [len(group.losses) for group in groups if "qk" in group.name] == [1, 1]


def test_candidate_ranks_respect_steps_and_end_at_the_full_rank() -> None:
    geometry = geometry_of(tiny("llama"))
    assert geometry.candidate_ranks("qk") == [2, 4, 6, 8]
    assert geometry.candidate_ranks("ov") == list(range(1, 9))
    assert geometry.candidate_ranks("mlp")[-1] == 40
    wide = Geometry(**{**geometry.document, "intermediate": 14336})
    assert wide.candidate_ranks("mlp") == list(range(128, 14337, 128))
    for width in (1, 63, 64, 127, 128, 352, 11008, 28672):
        some = Geometry(**{**geometry.document, "intermediate": width})
        ranks, step = some.candidate_ranks("mlp"), some.step("mlp")
        assert step & (step - 1) == 0
        assert min(width, 64) <= len(ranks) <= 128
        assert ranks[-1] == width
    assert len(Geometry(**{**geometry.document, "head_dim": 256}).candidate_ranks("ov")) == 128
    odd = Geometry(**{**geometry.document, "intermediate": 354})
    assert odd.candidate_ranks("mlp")[-2:] == [352, 354]


def test_a_checkpoint_that_is_not_what_was_planned_fails_the_job() -> None:
    from allocator.base.errors import CountMismatch
    from allocator.stages.apply import check_counts

    geometry = geometry_of(tiny("llama"))
    ranks = Ranks(qk=(4, 2), ov=(3, 5), mlp=(17, 40))
    promised = CostModel(geometry).summary(ranks)
    layers = [
        {"layer": 0, "latent": 0, "k": 4 * 2, "v": 3 * 2, "mlp": 17},
        {"layer": 1, "latent": 0, "k": 2 * 2, "v": 5 * 2, "mlp": 40},
    ]
    counted = {**promised, "layers": layers}
    check_counts(geometry, ranks, counted)
    for wrong in ({"params": promised["params"] + 1}, {"kv_bytes_per_token": 0}, {"layers": layers[::-1]}):
        with pytest.raises(CountMismatch, match="not what was planned"):
            check_counts(geometry, ranks, {**counted, **wrong})
