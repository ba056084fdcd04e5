"""The budget grammar: what it takes, what it refuses and what it says then."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.base.errors import BudgetSyntax
from allocator.plan.ask.budgets import parse_budget, parse_budgets
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.geometry import Geometry
from allocator.plan.model.ranks import Ranks

GEOMETRY = Geometry(
    family="llama",
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate=128,
    mlp_matrices=3,
    qk_step=2,
    qk_bias=False,
    ov_bias=False,
    mlp_bias=False,
    vocab=100,
    max_positions=256,
    total_params=100_000,
    bytes_per_param=2,
)
COSTS = CostModel(GEOMETRY)


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("params=0.8", Metric("params"), 80_000),
        ("params=1", Metric("params"), 100_000),
        ("block_params=0.5", Metric("block_params"), 36_864),
        ("kv_bytes_per_token=65536", Metric("kv_bytes_per_token"), 65_536),
        ("kv_bytes_per_token=64KiB", Metric("kv_bytes_per_token"), 65_536),
        ("params=1.5K", Metric("params"), 1_500),
        ("params=2e3", Metric("params"), 2_000),
        ("memory=24GiB@batch=8,context=131072", Metric("memory", batch=8, context=131072), 24 * 2**30),
        ("memory=1M@context=10", Metric("memory", batch=1, context=10), 1_000_000),
        (
            "flops_per_token=9G@context=128,phase=decode",
            Metric("flops_per_token", context=128, phase="decode"),
            9 * 10**9,
        ),
        (
            "memory=1G@context=10,weights=bf16,cache=fp8",
            Metric("memory", context=10, weights="bfloat16", cache="float8"),
            10**9,
        ),
        ("kv_bytes_per_token=0.5@cache=float32", Metric("kv_bytes_per_token", cache="float32"), 256),
        ("params=80%", Metric("params"), 80_000),
        ("params=0.8x", Metric("params"), 80_000),
        ("params=12.5 %", Metric("params"), 12_500),
        ("params=100%", Metric("params"), 100_000),
        ("params=1x", Metric("params"), 100_000),
        ("block_params=200_000", Metric("block_params"), 200_000),
        ("block_params=1_000.5K", Metric("block_params"), 1_000_500),
        ("params=1.5M", Metric("params"), 1_500_000),
        ("params=1.5m", Metric("params"), 1_500_000),
        ("params=1.5B", Metric("params"), 1_500_000_000),
        ("params=2T", Metric("params"), 2 * 10**12),
        ("memory=24GB@context=10", Metric("memory", context=10), 24 * 10**9),
        ("memory=24gb@context=10", Metric("memory", context=10), 24 * 10**9),
        ("memory=24 GiB @ context=10", Metric("memory", context=10), 24 * 2**30),
        ("memory=24gib@context=10", Metric("memory", context=10), 24 * 2**30),
        ("memory=1TiB@context=128k", Metric("memory", context=131_072), 2**40),
        ("memory=50%@context=1M,batch=1_000", Metric("memory", context=2**20, batch=1000), None),
        ("kv_bytes_per_token=512B", Metric("kv_bytes_per_token"), 512),
        ("kv_bytes_per_token=1.5kB", Metric("kv_bytes_per_token"), 1_500),
        ("flops_per_token=9GFLOPs@context=0.5k", Metric("flops_per_token", context=512), 9 * 10**9),
        ("flops_per_token=5K", Metric("flops_per_token", context=2048, phase="prefill"), 5_000),
    ],
)
def test_reads(text: str, metric: Metric, limit: int | None) -> None:
    budget = parse_budget(text)
    assert budget.metric == metric
    assert budget.limit(COSTS) == (COSTS.dense(metric) // 2 if limit is None else limit)


@pytest.mark.parametrize("written", ["0.8", ".8", "80%", "80 %", "8e1%", "0.8x", "0.80X", "80.0%"])
def test_a_share_is_the_same_exact_fraction_however_it_is_written(written: str) -> None:
    assert parse_budget(f"params={written}").fraction == Fraction(4, 5)
    assert parse_budget("params=33.3%").fraction == Fraction(333, 1000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params=150%", "150% is more than the dense model"),
        ("params=2x", "2x is more than the dense model"),
        ("params=24GB", "'GB' is no suffix of parameters, which are K, M, G, T, KiB"),
        ("memory=24Gb@context=9", "Gb reads as bits, bytes are GB"),
        ("memory=24ms@context=9", "'ms' is no suffix of bytes"),
        ("latency=12GB@context=9,phase=decode", "'GB' is no suffix of ns"),
        ("params=1.5", "1.5 lies between a share of the dense model and an amount"),
        ("memory=1G@context=1.0001k", "context must be a whole number .*128k is 131072"),
        ("memory=1G@context=9,batch=1k", "batch must be a whole number"),
        ("memory=9999TiB@context=9", "it is too large"),
    ],
)
def test_says_what_is_wrong_with_an_amount(text: str, says: str) -> None:
    with pytest.raises(BudgetSyntax, match=says):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("params=80%", "params <= 80,000 parameters (80 % of 100,000)"),
        ("params=1.5B", "params <= 1,500,000,000 parameters"),
        (
            "memory=24GB@context=128k,batch=8",
            "memory@batch=8,context=131072 <= 24,000,000,000 bytes (24 GB = 22.3517 GiB)",
        ),
        ("kv_bytes_per_token=64KiB", "kv_bytes_per_token <= 65,536 bytes (65.536 KB = 64 KiB)"),
        ("kv_bytes_per_token=512", "kv_bytes_per_token <= 512 bytes"),
        (
            "latency=12ms@context=9,phase=decode",
            "latency@batch=1,context=9,phase=decode <= 12,000,000 ns (12 ms)",
        ),
    ],
)
def test_says_what_it_was_taken_for(text: str, says: str) -> None:
    assert parse_budget(text).understood(COSTS) == says


@pytest.mark.parametrize("metric", [m for m in METRICS if m != "memory"])
@pytest.mark.parametrize(
    "value",
    [
        "0",
        "1.5",
        "abc",
        "",
        "-1",
        "0.0",
        "nan",
        "inf",
        "1e400",
        "0x10",
        "1__000",
        "_1",
        "1_",
        "٣",
        "2Q",
        "0K",
    ],
)
def test_refuses_the_value_and_says_what_works(metric: str, value: str) -> None:
    with pytest.raises(BudgetSyntax, match=r"fraction in \(0, 1\] or a number >= 2") as caught:
        parse_budget(f"{metric}={value}")
    assert caught.value.fields[0].found == f"{metric}={value}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed=0.5", "one of params, block_params, kv_bytes_per_token, flops_per_token, memory"),
        ("params", "write metric=value"),
        ("memory=24GiB", "memory needs a context length"),
        ("memory=24GiB@", "nothing follows '@'"),
        ("memory=24GiB@batch=8", "memory needs a context length"),
        ("memory=24GiB@context=0", "context must be a whole number"),
        ("memory=24GiB@context=10,context=10", "options of memory are batch, context, weights, cache"),
        (
            "memory=24GiB@context=10,weights=int3",
            "weights is float32, bfloat16, float16, int8, int4 or int4packed",
        ),
        ("memory=24GiB@context=10,cache=int4", "cache is float32, bfloat16, float16, float8 or int8"),
        ("kv_bytes_per_token=0.5@weights=int8", "options of kv_bytes_per_token are cache"),
        ("memory=2G@batch=999999999,context=999999999", "at most 10\\^12"),
        ("flops_per_token=0.5@phase=training", "phase is prefill or decode"),
        ("params=0.5@batch=2", "params takes no options"),
    ],
)
def test_refuses_the_form_and_says_what_works(text: str, says: str) -> None:
    with pytest.raises(BudgetSyntax, match=says):
        parse_budget(text)


def test_types_written_either_way_are_one_metric() -> None:
    short, long = parse_budgets(
        ["memory=9K@context=9,weights=bf16", "memory=9K@context=9,weights=bfloat16,cache=fp16"]
    )
    assert short.metric.label == "memory@batch=1,context=9,weights=bfloat16"
    assert parse_budget(f"memory=1{long.metric.label.removeprefix('memory')}").metric == long.metric
    with pytest.raises(BudgetSyntax, match="already has a budget"):
        parse_budgets(["kv_bytes_per_token=1K@cache=fp8", "kv_bytes_per_token=2K@cache=float8"])


def test_several_budgets_name_the_one_that_is_wrong() -> None:
    with pytest.raises(BudgetSyntax, match=r"budgets\[1\]") as caught:
        parse_budgets(["params=0.8", "params=abc"])
    assert caught.value.fields[0].field == "budgets[1]"
    with pytest.raises(BudgetSyntax, match="already has a budget"):
        parse_budgets(["params=0.8", "params=0.7"])
    with pytest.raises(BudgetSyntax, match="at least one"):
        parse_budgets([])
    both = parse_budgets(["flops_per_token=0.8@phase=decode", "flops_per_token=0.8@phase=prefill"])
    assert len(both) == 2


@given(st.decimals(min_value="0.0001", max_value=1, places=4, allow_nan=False))
def test_fractions_are_exact_and_rounded_down(share: object) -> None:
    dense = COSTS.total(Metric("params"), Ranks.dense(GEOMETRY))
    assert parse_budget(f"params={share}").limit(COSTS) == Fraction(str(share)) * dense // 1


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_an_explanation(text: str) -> None:
    refusals = []
    try:
        assert parse_budget(text).limit(COSTS) >= 0
    except BudgetSyntax as error:
        refusals = error.fields
        assert refusals
