"""The cost model against a count of real tensors, and against the formulas evaluated by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allocator.costs import CostModel, Metric, Ranks
from allocator.geometry import Geometry
from solvers import moments
from solvers.compress import solve_layer
from solvers.families import FAMILIES
from solvers.surgery import open_model
from tests.support.models import tiny, token_ids

CASES = [
    ("llama", {"kv_heads": 4}),
    ("llama", {"kv_heads": 2, "attention_bias": True}),
    ("qwen2", {"kv_heads": 1}),
    ("gpt2", {}),
]


def geometry_of(model: Any) -> Geometry:
    family = FAMILIES[model.config.model_type]
    found = family.geometry(model.config)
    biases = found.pop("biases")
    return Geometry(
        family=model.config.model_type,
        layers=2,
        vocab=61,
        max_positions=64,
        total_params=sum(p.numel() for p in model.parameters()),
        bytes_per_param=8,
        qk_bias=biases["qk"],
        ov_bias=biases["ov"],
        mlp_bias=biases["mlp"],
        **found,
    )


@pytest.mark.parametrize(("family", "options"), CASES)
def test_parameters_and_cache_equal_the_tensors_of_a_cut_model(family: str, options: dict[str, Any]) -> None:
    model, ids = tiny(family, **options), token_ids(4, 20)
    costs = CostModel(geometry_of(model))
    opened = open_model(model)
    ranks = Ranks(qk=(4, 2), ov=(3, 5), mlp=(17, 40))
    for index, found in enumerate(moments.collect(opened, ids)):
        solution = solve_layer(opened.source[index], found)
        opened.put(index, solution.compressed(qk=ranks.qk[index], ov=ranks.ov[index], mlp=ranks.mlp[index]))
    assert costs.total(Metric("params"), ranks) == sum(p.numel() for p in opened.model.parameters())
    with torch.no_grad():
        cache = opened.model(ids[:1, :7], use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert costs.total(Metric("kv_bytes_per_token"), ranks) * 7 == held
    memory = Metric("memory", batch=3, context=100)
    weights = sum(p.numel() for p in opened.model.parameters()) * 8
    assert costs.total(memory, ranks) == weights + 3 * 100 * held // 7


@pytest.mark.parametrize(("family", "options"), CASES)
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


def test_candidate_ranks_respect_steps_and_end_at_the_full_rank() -> None:
    geometry = geometry_of(tiny("llama"))
    assert geometry.candidate_ranks("qk") == [2, 4, 6, 8]
    assert geometry.candidate_ranks("ov") == list(range(1, 9))
    assert geometry.candidate_ranks("mlp")[-1] == 40
    wide = Geometry(**{**geometry.document(), "intermediate": 14336})
    assert len(wide.candidate_ranks("mlp")) == 64
    odd = Geometry(**{**geometry.document(), "intermediate": 352})
    assert odd.candidate_ranks("mlp")[-2:] == [350, 352]


def test_a_checkpoint_that_is_not_what_was_planned_fails_the_job() -> None:
    from allocator.errors import CountMismatch
    from allocator.jobs.stages.apply import check_counts

    geometry = geometry_of(tiny("llama"))
    ranks = Ranks(qk=(4, 2), ov=(3, 5), mlp=(17, 40))
    promised = CostModel(geometry).summary(ranks)
    layers = [
        {"layer": 0, "k": 4 * 2, "v": 3 * 2, "mlp": 17},
        {"layer": 1, "k": 2 * 2, "v": 5 * 2, "mlp": 40},
    ]
    counted = {**promised, "layers": layers}
    check_counts(geometry, ranks, counted)
    for wrong in ({"params": promised["params"] + 1}, {"kv_bytes_per_token": 0}, {"layers": layers[::-1]}):
        with pytest.raises(CountMismatch, match="not what was planned"):
            check_counts(geometry, ranks, {**counted, **wrong})
