"""Values of all heads in one latent: the solution against literal formulas on tokens, and the layer that computes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from allocator.plan.model.precision import JOINT
from solvers.a3 import latent as latent_module
from solvers.a3 import moments as moments_module
from solvers.a3.compress import in_float64
from solvers.a3.linalg import damped, factor
from solvers.a3.ov_latent import solve_ov_latent
from solvers.checkpoints.recounting import recount
from solvers.checkpoints.written import load_written
from solvers.families import FAMILIES
from solvers.model.padding import padded_weights
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights, load_layer, save_layer
from tests.solvers.test_literal import LAYER, literal, pinv_root, root, truncated, with_ones, with_row
from tests.support.exports import loaded_elsewhere
from tests.support.latents import cut, exported, solved
from tests.support.models import CASES, case_id, given_cache, tiny, token_ids

SHARED = [case for case in CASES if case[1].get("kv_heads") != 1]
"""With more than one key/value head."""
every_family = pytest.mark.parametrize(("family", "options"), SHARED, ids=case_id)


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("llama", {"kv_heads": 4}), ("qwen2", {}), ("gpt2", {}), ("mistral", {})],
    ids=case_id,
)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_it_is_the_truncated_svd_of_all_values_by_all_heads_attention(
    family: str, options: dict[str, Any], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_module, "damping", lambda features, count: 1e-14)
    case = literal(family, options)
    weights, x = case.weights, with_ones(case.attended)
    heads, kv_heads, size = weights.heads, weights.kv_heads, weights.ov_rank
    value = with_row(
        weights.v_DKr.flatten(1), None if weights.v_bias_Kr is None else weights.v_bias_Kr.flatten()
    )
    # C, one block for each group.
    outer = torch.zeros(kv_heads * size, kv_heads * size, dtype=torch.float64)
    for i in range(heads):
        here = slice(i // (heads // kv_heads) * size, (i // (heads // kv_heads) + 1) * size)
        outer[here, here] += weights.o_HrD[i] @ weights.o_HrD[i].T
    rows = x.flatten(0, 1)
    half = root(rows.T @ rows / len(rows))
    target = half @ value @ root(outer)
    best = truncated(target, kv_heads * rank)
    model = tiny(family, **options)
    (_, latents) = solved(model, token_ids(), JOINT)
    found = latents[LAYER].apply(weights, rank)
    assert found.v_up_KRh is not None
    assert found.v_DKr.shape[1:] == (kv_heads, rank)
    ours = with_row(
        found.v_DKr.flatten(1), None if found.v_bias_Kr is None else found.v_bias_Kr.flatten()
    ) @ found.v_up_KRh.transpose(0, 1).flatten(1)
    energy = target.square().sum()
    assert (half @ ours @ root(outer) - best).square().sum() <= 1e-8 * energy
    assert abs((target - best).square().sum() - latents[LAYER].losses[rank]) <= 1e-8 * energy
    # The same through the paper's own route back to the weights.
    direct = pinv_root(rows.T @ rows / len(rows)) @ best
    assert (half @ (ours @ root(outer) - direct)).square().sum() <= 1e-8 * energy


@settings(max_examples=30, deadline=None)
@given(
    kv_heads=st.integers(2, 4),
    group=st.integers(1, 2),
    size=st.integers(1, 5),
    rows=st.integers(3, 60),
    seed=st.integers(0, 10_000),
)
def test_errors_fall_with_the_rank_and_none_is_above_that_of_palu(
    kv_heads: int, group: int, size: int, rows: int, seed: int
) -> None:
    """Palu: the truncated SVD of whitened values, which does not know where they go."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, heads, hidden = kv_heads * size, kv_heads * group, 7
    tokens = normal(rows, width) * torch.logspace(0, -2, width, dtype=torch.float64)
    nothing = torch.zeros(0, 0, dtype=torch.float64)
    found = moments_module.LayerMoments(
        count=rows,
        **dict.fromkeys(("q_Hhh", "k_Khh", "v_Khh"), nothing[None]),
        **dict.fromkeys(("z_ZZ", "mlp_mm"), nothing),
        **dict.fromkeys(("z_Z", "mlp_m"), nothing[0:0].flatten()),
        attended_VV=tokens.T @ tokens * heads,
    )
    weights = LayerWeights(
        q_DHr=normal(hidden, heads, 2),
        k_DKr=normal(hidden, kv_heads, 2),
        v_DKr=normal(hidden, kv_heads, size),
        o_HrD=normal(heads, size, hidden),
        up_Dm=normal(hidden, 0),
        down_mD=normal(0, hidden),
    )
    latent = solve_ov_latent(weights, found)
    assert latent is not None
    moment = damped(tokens.T @ tokens / rows, max(width / rows, 1e-8))
    outer = torch.block_diag(
        *[
            sum(weights.o_HrD[i] @ weights.o_HrD[i].T for i in range(k * group, (k + 1) * group))
            for k in range(kv_heads)
        ]
    )

    def error(down: torch.Tensor, up: torch.Tensor) -> float:
        left = torch.eye(width, dtype=torch.float64) - down @ up
        return float((left.T @ moment @ left * outer).sum())

    whole, inverse = factor(moment)
    _, values = torch.linalg.eigh(whole @ whole.T)
    palu = values.flip(-1)
    energy, before = float(latent.losses[0]), float("inf")
    for rank in range(size + 1):
        count = kv_heads * rank
        ours = error(latent.to_latent_VR[:, :count], latent.from_latent_RV[:count])
        assert ours == pytest.approx(float(latent.losses[rank]), abs=1e-9 * energy)
        assert ours <= error(inverse @ palu[:, :count], palu[:, :count].T @ whole) + 1e-9 * energy
        assert ours <= before + 1e-9 * energy
        before = ours
    assert before <= 1e-9 * energy


@torch.no_grad()
@every_family
def test_all_numbers_are_the_dense_function(family: str, options: dict[str, Any]) -> None:
    ids = token_ids(4, 40)
    expected = tiny(family, **options)(ids).logits
    opened, latents = solved(tiny(family, **options), ids, JOINT)
    for index, latent in enumerate(latents):
        opened.put(index, latent.apply(in_float64(opened.source[index]), opened.source[index].ov_rank))
    assert torch.allclose(opened.model(ids).logits, expected, atol=1e-8)


@torch.no_grad()
@every_family
def test_the_padded_layer_is_the_same_function(family: str, options: dict[str, Any]) -> None:
    ids, stock = token_ids(4, 40), tiny(family, **options)
    opened, layers = cut(tiny(family, **options), ids, JOINT, 3)
    for index, weights in enumerate(layers):
        attention = opened.attention(index)
        rank, whole = weights.ov_rank, opened.source[index].ov_rank
        assert attention.v_proj.out_features == rank * attention.kv_heads < whole * attention.kv_heads
        assert attention.o_proj.in_features == whole * attention.heads
        layer = FAMILIES[family].layers(stock)[index]
        FAMILIES[family].write_stock_layer(stock.config, layer, padded_weights(weights, opened.source[index]))
    assert torch.allclose(stock(ids).logits, opened.model(ids).logits, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    ("implementation", "family", "options"),
    [
        (each, family, options)
        for family, options in SHARED
        for each in sorted({"eager", FAMILIES[family].attention_implementation})
    ],
    ids=case_id,
)
def test_token_by_token_is_all_at_once(implementation: str, family: str, options: dict[str, Any]) -> None:
    """What one token attends to is the latent; many attend to values that are made of it."""
    model, ids = tiny(family, **options), token_ids(2, 20)
    opened, layers = cut(model, ids, JOINT, 3)
    opened.model.config._attn_implementation = implementation
    # A softmax in float32 is what eager attention takes.
    near = 1e-4 if implementation == "eager" or "gemma2" in family else 1e-8
    expected = opened.model(ids).logits
    dynamic = DynamicCache(config=opened.model.config)
    for first, last in ((0, 9), (9, 10), (10, 14), (14, 15), (15, 20)):
        found = opened.model(ids[:, first:last], use_cache=True, **given_cache(opened.model, dynamic)).logits
        assert torch.allclose(found, expected[:, first:last], atol=near)
    for index, weights in enumerate(layers):
        kept = dynamic.layers[index].values
        assert kept.shape[1] * kept.shape[3] == weights.kv_heads * weights.ov_rank


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral"])
def test_a_written_checkpoint_loads_counts_and_generates(family: str, tmp_path: Path) -> None:
    compact, padded, layers = exported(family, {}, tmp_path, JOINT, 3)
    config = json.loads((compact / "config.json").read_text())
    assert (config["ov_joint"], config["ov_ranks"]) == ([True, False], [3, layers[1].ov_rank])
    counted = recount(compact, layer_count=2)
    assert [row["v"] for row in counted["layers"]] == [each.kv_heads * each.ov_rank for each in layers]
    stock = AutoModelForCausalLM.from_pretrained(padded, dtype=torch.float32).eval()
    whole = sum(parameter.numel() for parameter in stock.parameters())
    saved = sum(
        tensor.numel() for tensor in vars(padded_weights(layers[0], layers[1])).values() if tensor is not None
    ) - sum(tensor.numel() for tensor in layers[0].tensors().values())
    assert counted["params"] == whole - saved
    model = load_written(compact).float()
    ids = token_ids(2, 12)
    assert torch.allclose(model(ids).logits, stock(ids).logits, atol=1e-4)
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    expected = stock.generate(ids, **options)
    assert model.generate(ids, **options).tolist() == expected.tolist()
    cache = StaticCache(config=model.config, max_cache_len=32)
    assert model.generate(ids, **given_cache(model, cache), **options).tolist() == expected.tolist()
    assert cache.layers[0].values.shape[1::2] == (layers[0].kv_heads, 3)


def test_plain_transformers_loads_it_in_a_process_of_its_own(tmp_path: Path) -> None:
    exported("llama", {}, tmp_path, JOINT, 3)
    assert loaded_elsewhere([tmp_path], tmp_path) == ["transformers_modules RankallocLlamaForCausalLM"]


def test_an_engine_that_caches_values_by_heads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact, _, layers = exported("llama", {}, tmp_path, JOINT, 3)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "vllm", lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="do not fit vLLM's cache"):
        AutoModel.from_pretrained(compact, attn_implementation="vllm")
    opened = open_model(tiny("llama"))
    attention = opened.family.architecture.make_attention(
        opened.config, 0, qk=8, ov=3, pairs=None, joint=True
    )
    attention.v_proj = torch.nn.Linear(24, 3)  # as a split by heads leaves it
    with pytest.raises(ValueError, match="not split by heads"):
        attention(torch.randn(1, 1, 24), position_embeddings=(torch.ones(1, 1, 8), torch.ones(1, 1, 8)))
    save_layer(tmp_path / "layer", layers[0])
    assert load_layer(tmp_path / "layer").joint
    assert not opened.source[0].joint


def test_one_value_head_has_nobody_to_share_with() -> None:
    opened = open_model(tiny("llama", kv_heads=1))
    (first, _) = moments_module.collect(opened, token_ids(2, 10), forms=("joint",))
    assert solve_ov_latent(in_float64(opened.source[0]), first) is None
