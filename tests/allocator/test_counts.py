"""What metrics count, against numbers worked out by hand; ``test_costs`` compares the same with written tensors."""

from __future__ import annotations

import pytest

from allocator.base.errors import InvalidInput
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.counts import Counts, timing_of
from allocator.plan.metrics.kind import Options
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.ranks import Ranks
from tests.support.latency import table
from tests.support.profiles import SMALL

BIASED = SMALL.replaced(qk_bias=True, ov_bias=True, mlp_bias=True)
"""Two layers of hidden 64, 4 query and 2 key heads of 16, 128 neurons in 3 matrices, two bytes a number; biases everywhere."""

INT8 = {
    ("qk", 8): (64 * 32 + 32 * 5) + (64 * 16 + 16 * 5) + 48 * 2,
    ("ov", 8): (64 * 16 + 16 * 5) + (32 * 64 + 64 * 5) + 16 * 2,
    ("mlp", 24): 2 * (64 * 24 + 24 * 5) + (24 * 64 + 64 * 5) + 48 * 2,
}
"""Numbers, five bytes of scale and zero point an output, and biases, which stay in two bytes."""


@pytest.mark.parametrize(("place", "size"), INT8.items())
def test_eight_bits(place: tuple[str, int], size: int) -> None:
    component, rank = place
    counts = Counts(BIASED)
    assert counts.weight_bytes("int8", component, rank) == size  # type: ignore[arg-type]
    assert counts.weight_bytes(None, component, rank, 8) == size  # type: ignore[arg-type]
    assert counts.weight_bytes("int4", component, rank, 8) == size, "its own bits, whatever the others have"  # type: ignore[arg-type]


def test_four_bits_are_packed_in_groups_of_32_inputs_with_two_numbers_each() -> None:
    packed = 2 * (64 * 32 // 2 + 32 * 2 * 2 * 2) + (32 * 64 // 2 + 64 * 1 * 2 * 2) + 64 * 2
    assert Counts(BIASED).weight_bytes("int4packed", "mlp", 32) == packed
    assert Counts(BIASED).weight_bytes(None, "mlp", 32, 4) == packed
    loose = 2 * (64 * 32 + 32 * 2 * 3) + (32 * 64 + 64 * 1 * 3) + 64 * 2
    assert Counts(BIASED).weight_bytes("int4", "mlp", 32) == loose


def test_what_is_not_quantized_is_in_the_type_that_weights_are_loaded_in() -> None:
    counts = Counts(BIASED)
    assert counts.weight_bytes(None, "qk", 8) == (64 * 6 + 6) * 8 * 2
    assert counts.weight_bytes("float32", "qk", 8) == (64 * 6 + 6) * 8 * 4
    assert counts.weight_bytes("float32", "qk", 8, 8) == INT8["qk", 8] + 48 * 2, "biases are twice as wide"
    fixed = 110_000 - 2 * ((64 * 6 + 6) * 16 + (64 * 6 + 2) * 16 + (3 * 64 + 2) * 128)
    assert counts.fixed_params == fixed
    assert [counts.fixed_bytes(kind) for kind in (None, "int8", "float32")] == [
        2 * fixed,
        2 * fixed,
        4 * fixed,
    ]


@pytest.mark.parametrize("experts", [2, 8])
def test_experts_stay_as_they_are_and_attention_beside_them_does_not(experts: int) -> None:
    counts = Counts(BIASED.replaced(experts=experts))
    assert counts.weight_bytes("int8", "mlp", 24) == experts * (3 * 64 + 2) * 24 * 2
    assert counts.weight_bytes("int8", "qk", 8) == INT8["qk", 8]


@pytest.mark.parametrize("experts", [2, 8])
def test_flops_count_the_experts_that_run_and_a_router_of_all(experts: int) -> None:
    flops, counts = METRICS["flops_per_token"], Counts(BIASED.replaced(experts=experts, active_experts=2))
    assert flops.cost(counts, Options(context=10), "mlp", 0, 24, None) == 2 * (2 * 3 * 64) * 24
    assert flops.constant(counts, Options()) == 2 * 64 * (256 + 2 * experts)
    assert flops.constant(Counts(BIASED), Options()) == 2 * 64 * 256


@pytest.mark.parametrize(("phase", "twice"), [("prefill", (11, 10)), ("decode", (20, 14))])
def test_flops_count_the_positions_that_a_layer_attends_to(phase: str, twice: tuple[int, int]) -> None:
    """Of 10 tokens the i-th attends to i positions, in the second layer to at most 7: 49 in all, twice the mean 9.8."""
    flops, counts = METRICS["flops_per_token"], Counts(BIASED.replaced(windows=(0, 7)))
    for layer, attended in enumerate(twice):
        per_rank = 2 * 64 * 6 + 4 * attended
        assert flops.cost(counts, Options(context=10, phase=phase), "qk", layer, 8, None) == 8 * per_rank


def test_memory_counts_bits_and_the_cache_of_every_sequence() -> None:
    memory, counts = METRICS["memory"], Counts(BIASED)
    options = Options(batch=3, context=10)
    cache = 3 * 10 * (2 * 8 * 2)
    assert memory.cost(counts, options, "qk", 0, 8, 8) == INT8["qk", 8] + cache
    assert memory.cost(counts, options, "qk", 0, 8, None) == (64 * 6 + 6) * 8 * 2 + cache
    assert memory.cost(counts, options, "mlp", 0, 24, 8) == INT8["mlp", 24]


def test_memory_reads_the_types_that_it_is_told_and_each_layer_s_own_window() -> None:
    memory, counts = METRICS["memory"], Counts(BIASED.replaced(windows=(0, 7)))
    options = Options(context=10, weights="int8", cache="int8")
    assert memory.cost(counts, options, "qk", 0, 8, None) == INT8["qk", 8] + 10 * (2 * 8)
    assert memory.cost(counts, options, "qk", 1, 8, None) == INT8["qk", 8] + 7 * (2 * 8)
    wide = Options(context=10, weights="float32")
    assert memory.constant(counts, wide) == 2 * memory.constant(counts, options) == 4 * counts.fixed_params


def test_bytes_of_weights_are_those_of_memory_without_a_cache() -> None:
    kind, counts = METRICS["weight_bytes"], Counts(BIASED)
    assert kind.cost(counts, Options(weights="int8"), "ov", 1, 8, None) == INT8["ov", 8]
    assert kind.cost(counts, Options(), "mlp", 1, 24, 8) == INT8["mlp", 24]
    assert kind.constant(counts, Options(weights="float32")) == 4 * counts.fixed_params


def test_the_dense_time_is_what_was_measured_and_no_sum_of_parts() -> None:
    costs, layers = CostModel(SMALL, table()), 2 * (1000 * 14 + 1000 * 15 + 10_000 * 126)
    prefill = Metric("latency", context=64, phase="prefill")
    assert costs.dense(prefill) == 2 * layers + 200_000
    assert costs.total(prefill, Ranks.dense(SMALL)) == layers + 100_000


@pytest.mark.parametrize("context", [2048, 512])
def test_every_report_shows_the_prefill_of_2048_tokens_unless_it_says_otherwise(context: int) -> None:
    projections = 2 * (64 * 6 * 16 + 64 * 6 * 16 + 3 * 64 * 128)
    attention = 4 * (16 + 16) * (context + 1)
    costs, dense = CostModel(SMALL), Ranks.dense(SMALL)
    shown = costs.summary(dense) if context == 2048 else costs.summary(dense, context=context)
    assert shown["flops_per_token"] == 2 * (projections + attention) + 2 * 64 * 256


def test_time_without_a_table_is_refused_with_the_way_to_one() -> None:
    allowed = (
        "beside a table that rankalloc latency measured: --latency-table FILE, or latency_table over REST"
    )
    with pytest.raises(InvalidInput) as caught:
        timing_of(None, 1, 64, "decode")
    assert caught.value.detail == f"latency: a budget or metric of time works {allowed}"
    assert vars(caught.value.fields[0]) == {"field": "latency_table", "found": "nothing", "allowed": allowed}


def test_what_ranks_can_shrink_to_nothing_has_no_constant_part() -> None:
    assert [
        METRICS[name].constant(Counts(BIASED), Options()) for name in ("block_params", "kv_bytes_per_token")
    ] == [0, 0]
