"""Targets: the program chooses ranks that an engine can hold, and counts the cache that the engine allocates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.documents.profile import Profile
from allocator.plan.explain import explain
from allocator.plan.files.plan_file import read_plan
from allocator.plan.frontier import frontier_of, plan_at
from allocator.plan.inverse import minimize
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.planning import plan_from_profile
from allocator.plan.program.problem import predicted_loss
from allocator.plan.refinement import refine
from allocator.plan.target_price import target_price
from allocator.plan.targets.held import check_held
from allocator.plan.targets.registry import TARGETS
from allocator.stages.exports import EXPORTS, check_exports, default_exports
from tests.support.plans import plan_file
from tests.support.profiles import SMALL, measured_profile, quantized_profile, small_profile, thinned_profile
from tests.support.programs import least_loss, within

GPU_SIZES = [8 * eighth for eighth in range(1, 33)]
CPU_SIZES = [32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512]
WIDE = SMALL.replaced(head_dim=96, heads=4, kv_heads=2, hidden=384, total_params=3_000_000)
"""Heads wide enough for several of a CPU's sizes."""


def engine_kv_bytes(target: str, geometry: Geometry, rows: list[dict[str, Any]]) -> int:
    """Bytes per token by the engine's own formula, in other words than the program's."""
    total = 0
    for row in rows:
        if target in ("vllm", "vllm-cpu"):
            # FullAttentionSpec.page_size_bytes / block_size: num_kv_heads * (head_size + head_size_v) * itemsize.
            sizes = GPU_SIZES if target == "vllm" else CPU_SIZES
            head_size = min(size for size in sizes if size >= row["qk"] and size >= row["ov"])
            total += geometry.kv_heads * (head_size + head_size) * geometry.bytes_per_param
        elif target in ("llama.cpp", "llama.cpp-kv"):
            # n_embd_k_gqa and n_embd_v_gqa, in ggml's float16 whatever the file is in.
            total += 2 * geometry.kv_heads * (geometry.head_dim + row["ov"])
        else:
            total += geometry.kv_heads * (row["qk"] + row["ov"]) * geometry.bytes_per_param
    return total


WHOLE = {"llama.cpp": ("qk", "ov"), "llama.cpp-kv": ("qk",), "stock": ("qk", "ov")}
ONE = {"llama.cpp-kv": ("ov", "mlp"), "stock": ("mlp",)}
"""Target -> components that it leaves as they are, and those that it wants of one rank."""


def held_mlp(target: str, geometry: Geometry) -> list[int]:
    """Ranks of MLPs: llama.cpp's down_proj has rows of whole blocks of 32, or the source's own."""
    blocks = [*range(32, geometry.intermediate, 32), geometry.intermediate]
    return blocks if target.startswith("llama.cpp") else geometry.candidate_ranks("mlp")


def held(target: str, geometry: Geometry, rows: list[dict[str, Any]]) -> bool:
    whole = all(row[c] == geometry.head_dim for row in rows for c in WHOLE.get(target, ()))
    one = all(len({row[c] for row in rows}) == 1 for c in ONE.get(target, ()))
    return whole and one and all(row["mlp"] in held_mlp(target, geometry) for row in rows)


@pytest.mark.parametrize("target", list(TARGETS))
@given(
    share=st.sampled_from([0.55, 0.7, 0.8, 0.95]),
    cache=st.sampled_from([None, 0.4, 0.5, 0.75, 0.9]),
    batch=st.integers(1, 4),
    context=st.integers(1, 400),
    intermediate=st.sampled_from([128, 120, 24]),
    seed=st.integers(0, 3),
)
@settings(max_examples=8, deadline=None)
def test_what_is_promised_is_what_the_engine_allocates(
    target: str, share: float, cache: float | None, batch: int, context: int, intermediate: int, seed: int
) -> None:
    geometry = WIDE.replaced(intermediate=intermediate)
    profile = measured_profile(geometry, seed=seed)
    budgets = [f"block_params={share}", f"memory=0.97@batch={batch},context={context}"]
    budgets += [] if cache is None else [f"kv_bytes_per_token={cache}"]
    try:
        plan = plan_from_profile(profile, budgets, constraints={"target": [target]})
    except BudgetInfeasible:
        smallest = {c: geometry.candidate_ranks(c)[0] for c in COMPONENTS}
        smallest |= dict.fromkeys(WHOLE.get(target, ()), geometry.head_dim)  # type: ignore[misc]
        smallest["mlp"] = held_mlp(target, geometry)[0]
        least = Ranks(*((smallest[c],) * geometry.layers for c in COMPONENTS))
        costs = CostModel(geometry, target=TARGETS[target])
        assert any(costs.total(b.metric, least) > b.limit(costs) for b in parse_budgets(budgets))
        return
    rows = plan.chosen.layers()
    assert held(target, geometry, rows)
    assert all(held(target, geometry, each.chosen.layers()) for each in plan.baseline.values())
    per_token = engine_kv_bytes(target, geometry, rows)
    assert plan.costs["kv_bytes_per_token"] == per_token
    # Blocks are whole, so a sequence takes up to a block more than its tokens.
    block = {"vllm": 16, "vllm-cpu": 128, "llama.cpp": 256, "llama.cpp-kv": 256}.get(target, 1)
    params = CostModel(geometry).total(parse_budgets(["params=1"])[0].metric, plan.chosen)
    used = {budget.metric: budget.used for budget in plan.budgets}
    memory = next(value for name, value in used.items() if name.startswith("memory"))
    positions = math.ceil(context / block) * block
    assert memory == params * geometry.bytes_per_param + batch * positions * per_token
    assert all(budget.used <= budget.limit for budget in plan.budgets)
    assert read_plan(plan_file(plan.document)).digest == plan.digest


THINNED = thinned_profile(mlp=(32, 44, 96, 128))
CURVES = list(THINNED.curves)
RANKS = {(curve.layer, curve.component): curve.ranks for curve in CURVES}


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize(
    "budgets",
    [["kv_bytes_per_token=0.5"], ["block_params=0.8", "kv_bytes_per_token=0.75"], ["memory=0.9@context=64"]],
)
def test_plans_are_the_best_of_all_that_the_target_holds(target: str, budgets: list[str]) -> None:
    costs, parsed = CostModel(SMALL, target=TARGETS[target]), parse_budgets(budgets)
    fits = within(costs, parsed)
    best = least_loss(CURVES, lambda ranks: held(target, SMALL, ranks.layers()) and fits(ranks))
    if best == math.inf:
        with pytest.raises(BudgetInfeasible):
            plan_from_profile(THINNED, budgets, constraints={"target": [target]})
        return
    plan = plan_from_profile(THINNED, budgets, constraints={"target": [target]})
    assert plan.predicted.loss_nats == pytest.approx(best, rel=1e-4, abs=1e-9)
    assert plan.certificate.status == "optimal"
    assert plan.certificate.independent_bound <= best + 1e-12


def test_plain_transformers_is_the_plan_without_a_word() -> None:
    budgets = ["block_params=0.8", "kv_bytes_per_token=0.6"]
    silent = plan_from_profile(small_profile(), budgets)
    named = plan_from_profile(small_profile(), budgets, constraints={"target": ["transformers"]})
    other = plan_from_profile(small_profile(), budgets, constraints={"target": ["vllm"]})
    assert named.digest == silent.digest != other.digest
    assert "target" not in named.constraints.written
    assert other.constraints.target == ("vllm",)
    assert other.predicted.loss_nats >= silent.predicted.loss_nats


def test_a_head_size_is_paid_once_and_filled_by_both() -> None:
    profile = measured_profile(WIDE)
    plan = plan_from_profile(profile, ["kv_bytes_per_token=0.5"], constraints={"target": ["vllm-cpu"]})
    for row in plan.ranks:
        size = min(size for size in CPU_SIZES if size >= max(row.qk, row.ov))
        # No budget but the cache's: what a size has room for costs nothing more.
        assert row.qk == row.ov == size
        assert row.mlp == WIDE.intermediate


def test_frontiers_and_inverse_problems_take_targets() -> None:
    profile, asked = measured_profile(WIDE), {"target": ["vllm-cpu"]}
    frontier = frontier_of(profile, ["kv_bytes_per_token"], constraints=asked, points=8)
    plan = plan_at(profile, frontier, 3)
    assert plan.constraints.target == ("vllm-cpu",)
    assert plan.predicted.loss_nats == pytest.approx(frontier.points[3].loss_nats)
    least = minimize(profile, "kv_bytes_per_token", max_loss_nats=0.05, constraints=asked)
    assert least.costs["kv_bytes_per_token"] == engine_kv_bytes("vllm-cpu", WIDE, least.chosen.layers())
    assert least.certificate.status == "optimal"


def test_explanations_price_what_a_pair_pays_together() -> None:
    profile = measured_profile(WIDE)
    plan = plan_from_profile(profile, ["kv_bytes_per_token=0.5"], constraints={"target": ["vllm-cpu"]})
    rows = {(row.layer, row.component): row for row in explain(plan, profile).components}
    price = plan.budgets[0].shadow_price
    for layer, row in enumerate(plan.ranks):
        if row.qk < WIDE.head_dim:
            # One pair more of QK takes the next head size, for keys and values.
            larger = next(size for size in CPU_SIZES if size > row.qk)
            taken = 2 * WIDE.kv_heads * WIDE.bytes_per_param * (larger - row.qk)
            assert rows[layer, "qk"].up.worth_nats == pytest.approx(price * taken)
        assert rows[layer, "ov"].down.worth_nats == 0, "less of one alone frees nothing"


class Curved:
    """Measures twice what the curves say, so that refinement has work."""

    def __init__(self, profile: Profile) -> None:
        self.curves = list(profile.curves)

    def plan(self, ranks: Ranks) -> float:
        return 2 * predicted_loss(self.curves, ranks)

    def changes(self, ranks: Ranks, trials: Any) -> dict[Any, float]:
        found = {}
        for place, options in trials.items():
            (curve,) = (c for c in self.curves if (c.layer, c.component) == place)
            for rank in options:
                found[place, rank] = 2 * (curve.loss_at(rank) - curve.loss_at(ranks.at(*place)[0]))
        return found


@pytest.mark.parametrize(
    ("target", "budgets"),
    [
        ("vllm-cpu", ["block_params=0.8", "kv_bytes_per_token=0.6"]),
        ("llama.cpp", ["block_params=0.9"]),
        ("llama.cpp-kv", ["block_params=0.8", "kv_bytes_per_token=0.8"]),
    ],
)
def test_refinement_stays_within_what_the_target_holds(target: str, budgets: list[str]) -> None:
    from allocator.plan.planning import question_of

    profile = measured_profile(WIDE)
    plan = plan_from_profile(profile, budgets, constraints={"target": [target]})
    ranks, record = refine(question_of(plan, profile), plan.chosen, Curved(profile), evaluations=40)
    assert record.final_nats <= record.start_nats
    assert held(target, WIDE, ranks.layers())
    costs = CostModel(WIDE, target=TARGETS[target])
    for budget in parse_budgets(budgets):
        assert costs.total(budget.metric, ranks) <= budget.limit(costs)


@pytest.mark.parametrize(
    ("constraints", "field", "said"),
    [
        ({"target": ["tgi"]}, "target", "transformers, vllm, vllm-cpu, llama.cpp, llama.cpp-kv, stock"),
        ({"target": ["vllm", "llama.cpp"]}, "target", "one of transformers"),
        ({"target": ["vllm"], "tie": ["qk"]}, "tie", "chooses qk and ov of a layer together"),
        ({"target": ["llama.cpp"], "pin": ["0.qk=8"]}, "pin", "layer 0 qk may take 16"),
        ({"target": ["llama.cpp"], "pin": ["1.mlp=48"]}, "pin", "layer 1 mlp may take 32, 64, 96, 128"),
    ],
)
def test_what_no_target_holds_is_refused(constraints: dict[str, list[str]], field: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_from_profile(small_profile(), ["params=0.9"], constraints=constraints)
    (error,) = caught.value.fields
    assert error.field == field
    assert said in error.allowed


def test_families_that_an_engine_computes_otherwise_are_refused() -> None:
    profile = measured_profile(SMALL.replaced(family="mpt"))
    with pytest.raises(
        InvalidInput, match="vllm cannot serve this model: its Transformers backend leaves MPT's biases"
    ):
        plan_from_profile(profile, ["params=0.9"], constraints={"target": ["vllm"]})


def test_a_file_with_ranks_that_its_target_cannot_hold_is_refused() -> None:
    plan = plan_from_profile(small_profile(), ["params=0.9"], constraints={"target": ["llama.cpp"]})
    for ranks, said in (
        ({"ov": 3}, "layer 0 ov has rank 3, and llama.cpp holds the full rank"),
        ({"mlp": 66}, "layer 0 mlp has rank 66, and llama.cpp holds multiples of 32 or the full rank"),
    ):
        rows = [{**row, **ranks} for row in plan.chosen.layers()]
        with pytest.raises(InvalidInput, match=said):
            read_plan(plan_file({**plan.document, "ranks": rows}))


def test_an_mlp_without_a_whole_block_below_it_keeps_its_full_rank() -> None:
    geometry = SMALL.replaced(intermediate=24)
    profile = measured_profile(geometry)
    assert plan_from_profile(
        profile, ["params=1"], constraints={"target": ["llama.cpp"]}
    ).chosen.layers() == [{"layer": layer, "qk": 16, "ov": 16, "mlp": 24} for layer in range(2)]
    with pytest.raises(
        BudgetInfeasible, match=r"is the least that any ranks that llama\.cpp holds reach"
    ) as caught:
        plan_from_profile(profile, ["block_params=0.9"], constraints={"target": ["llama.cpp"]})
    dense = CostModel(geometry).total(Metric("block_params"), Ranks.dense(geometry))
    assert [each["minimum"] for each in caught.value.extra["achievable"]] == [dense]
    smaller = plan_from_profile(profile, ["block_params=0.9"], constraints={"target": ["llama.cpp-kv"]}).ranks
    assert {row.mlp for row in smaller} == {24}
    assert all(row.ov < 16 for row in smaller)


def test_windows_of_unlike_sizes_share_the_largest_page() -> None:
    mixed = WIDE.replaced(windows=(0, 32))
    alike = WIDE.replaced(windows=(32, 32))
    small = Ranks((32, 32), (32, 32), (128, 128))
    metric = parse_budgets(["kv_bytes_per_token=1"])[0].metric
    target = TARGETS["vllm-cpu"]
    assert CostModel(mixed, target=target).total(metric, small) == 2 * 2 * 2 * 96 * 2
    assert CostModel(alike, target=target).total(metric, small) == 2 * 2 * 2 * 32 * 2


def test_exports_are_checked_against_targets_and_ranks() -> None:
    ranks = Ranks((16, 16), (16, 16), (64, 96))
    check_held(TARGETS["llama.cpp"], SMALL, ranks, "export")
    with pytest.raises(
        InvalidInput, match="export: layer 1 mlp has rank 96, and stock holds one rank in all layers"
    ):
        check_held(TARGETS["stock"], SMALL, ranks, "export")
    with pytest.raises(InvalidInput, match="export: stock cannot serve this model: MPT's own class has one"):
        check_held(TARGETS["stock"], SMALL.replaced(family="mpt"), ranks, "export")
    with pytest.raises(InvalidInput, match="export: stock works beside --target stock"):
        check_exports(["compact", "stock"], TARGETS["vllm"])
    check_exports(["compact", "padded"], TARGETS["vllm"])
    assert [default_exports(target) for target in TARGETS.values()][:2] == [
        ["compact", "padded"],
        ["compact"],
    ]
    assert default_exports(TARGETS["stock"]) == ["compact", "stock"]
    for target in TARGETS.values():
        assert set(target.exports) <= set(EXPORTS)
        check_exports(default_exports(target), target)


@pytest.mark.parametrize(
    ("changed", "tied"),
    [
        ({}, ()),
        ({"family": "mistral", "windows": (64, 64)}, ("mlp",)),
        ({"family": "mistral", "windows": (128, 128)}, ()),
        ({"family": "gemma"}, ("mlp",)),
        ({"family": "qwen3", "total_params": 82_000}, ()),
        ({"family": "qwen3", "total_params": 110_000}, ("mlp",)),
    ],
)
def test_mlps_differ_by_layer_where_llama_cpp_has_a_graph_for_it(
    changed: dict[str, Any], tied: tuple[str, ...]
) -> None:
    """86,016 numbers of blocks and 16,384 of embeddings: a head of its own makes 118,784."""
    assert TARGETS["llama.cpp"].ties(SMALL.replaced(**changed)) == tied


def test_a_cache_of_llama_cpp_is_in_float16_and_windows_hold_a_batch_more() -> None:
    target, single = (
        TARGETS["llama.cpp"],
        SMALL.replaced(bytes_per_param=4, windows=(0, 64), max_positions=8192),
    )
    memory = parse_budgets(["memory=1@context=3000"])[0].metric
    costs, dense = CostModel(single, target=target), Ranks.dense(single)
    per_cell = 2 * 2 * 2 * 16
    # 3,000 cells are rounded up to 3,072; 64 + 512 of the layer with a window to 768.
    assert costs.total(memory, dense) == single.total_params * 4 + per_cell * (3072 + 768)


def test_weight_bits_are_for_transformers_alone() -> None:
    profile = quantized_profile()
    budgets = ["memory=0.6@context=64"]
    vllm = plan_from_profile(profile, ["memory=0.8@context=64"], constraints={"target": ["vllm"]})
    assert "bits" not in vllm.document
    with pytest.raises(InvalidInput, match="bits: allowed are none with target vllm"):
        plan_from_profile(profile, budgets, constraints={"target": ["vllm"]}, bits=[8])
    assert plan_from_profile(profile, budgets, constraints={"target": ["transformers"]}).bits == (8, 4)
    ranks = Ranks((16, 16), (16, 16), (64, 64)).with_bits([(8, None, None), (None, None, None)])
    with pytest.raises(InvalidInput, match="the plan has weight bits, and stock does not load them"):
        check_held(TARGETS["stock"], SMALL, ranks, "export")


def test_a_target_is_priced_against_plain_transformers_at_the_same_budgets() -> None:
    profile, budgets = measured_profile(WIDE), ["kv_bytes_per_token=0.5", "block_params=0.9"]
    assert target_price(plan_from_profile(profile, budgets), profile) is None
    plain = plan_from_profile(profile, budgets).predicted.loss_nats
    plan = plan_from_profile(profile, budgets, constraints={"target": ["vllm-cpu"]})
    price = target_price(plan, profile)
    assert price is not None
    assert price.plain_loss_nats == plain < price.loss_nats == plan.predicted.loss_nats
    assert f"{price.loss_nats - plain:+.4f} nats" in price.sentence
    assert price.kv_bytes_per_token == engine_kv_bytes("vllm-cpu", WIDE, plan.chosen.layers())
