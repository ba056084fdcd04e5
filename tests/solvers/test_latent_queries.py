"""Queries of all heads made of one latent: the solution against literal formulas, and the layer that computes with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from allocator.plan.model.precision import LATENT
from solvers.a3 import moments as moments_module
from solvers.a3.compress import in_float64
from solvers.a3.effects import query_effects
from solvers.a3.latent import latent_bases
from solvers.a3.linalg import damped
from solvers.a3.queries import solve_queries
from solvers.checkpoints.recounting import recount
from solvers.checkpoints.written import load_written
from solvers.families import FAMILIES
from solvers.model.inside import run_layer
from solvers.model.padding import padded_weights
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights, load_layer, save_layer
from tests.support.latents import cut, exported, solved
from tests.support.models import CASES, case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {}), ("qwen3", {}), ("gemma2", {}), ("gpt2", {})], ids=case_id
)
def test_effects_have_the_second_moment_of_the_derivative(family: str, options: dict[str, Any]) -> None:
    """Of every token's output by its own query, which finite differences give here."""
    opened = open_model(tiny(family, **options))
    ids = token_ids(2, 7)
    hidden, calls = opened.start(ids)
    call = run_layer(opened, 0, hidden, calls[0])["attention_call"]
    attention = opened.attention(0)
    width, step = attention.q_proj.out_features, 1e-3  # Gemma's softmax is float32
    columns = []
    for column in range(width):
        outputs = []
        for sign in (1, -1):
            move = torch.zeros(width).index_fill(0, torch.tensor([column]), sign * step)
            handle = attention.q_proj.register_forward_hook(lambda m, a, out, move=move: out + move)
            with torch.no_grad():
                outputs.append(attention(*call[0], **call[1])[0])
            handle.remove()
        columns.append(((outputs[0] - outputs[1]) / (2 * step)).flatten(0, 1))
    jacobian = torch.stack(columns, dim=-1)  # (tokens, D, Q)
    exact = torch.einsum("tdq,tdp->qp", jacobian, jacobian)
    draws = 1500
    rows = torch.cat([query_effects(attention, *call, seed).flatten(0, 1) for seed in range(draws)])
    assert (rows.T @ rows / draws - exact).norm() < 0.08 * exact.norm()
    assert torch.equal(query_effects(attention, *call, 5), query_effects(attention, *call, 5))


@settings(max_examples=30, deadline=None)
@given(heads=st.integers(1, 4), size=st.integers(1, 5), rows=st.integers(3, 60), seed=st.integers(0, 10_000))
def test_it_is_the_best_of_its_size_and_losses_are_what_it_loses(
    heads: int, size: int, rows: int, seed: int
) -> None:
    """Against the literal SVD of T W C^1/2 on the tokens, and against the principal directions of the queries."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, hidden = heads * size, heads * size + 3
    tokens = normal(200 * width + rows, hidden) * torch.logspace(0, -1, hidden, dtype=torch.float64)
    weight, effects = normal(hidden, width), normal(rows, width)
    queries, nothing = tokens @ weight, torch.zeros(0, 0, dtype=torch.float64)
    count = len(tokens)
    found = moments_module.LayerMoments(
        count=count,
        **dict.fromkeys(("q_Hhh", "k_Khh", "v_Khh"), nothing[None]),
        **dict.fromkeys(("z_ZZ", "mlp_mm"), nothing),
        **dict.fromkeys(("z_Z", "mlp_m"), nothing[0:0].flatten()),
        query_QQ=queries.T @ queries,
        query_effect_QQ=effects.T @ effects,
    )
    weights = LayerWeights(
        q_DHr=weight.unflatten(1, (heads, size)),
        k_DKr=normal(hidden, 1, size),
        v_DKr=normal(hidden, 1, size),
        o_HrD=normal(heads, size, hidden),
        up_Dm=normal(hidden, 0),
        down_mD=normal(0, hidden),
    )
    latent = solve_queries(weights, found)
    assert latent is not None
    metric = effects.T @ effects / count
    values, vectors = torch.linalg.eigh(metric)
    half = vectors * values.clamp_min(0).sqrt() @ vectors.T
    singular = torch.linalg.svdvals(queries @ half / count**0.5)
    plain = torch.linalg.svd(queries, full_matrices=False).Vh
    energy, moment = float(singular.square().sum()), damped(queries.T @ queries / count, width / count)
    for rank in range(size + 1):
        layer = latent.apply(weights, rank)
        made = torch.einsum("nd,de,ehr->nhr", tokens, layer.q_down_DR, layer.q_DHr).flatten(1)
        error = float((half @ (queries - made).T).square().sum() / count)
        best = float(singular[heads * rank :].square().sum())
        # Damping by the share of features to tokens costs next to nothing.
        assert best - 1e-9 * energy <= error <= 1.05 * best + 3e-3 * energy
        left = torch.eye(width, dtype=torch.float64)
        left -= latent.to_latent_QR[:, : heads * rank] @ latent.from_latent_RQ[: heads * rank]
        stated = float((left.T @ moment @ left * metric).sum())
        assert float(latent.losses[rank]) == pytest.approx(stated, abs=1e-9 * energy)
        principal = queries @ plain[: heads * rank].T @ plain[: heads * rank]
        other = float((half @ (queries - principal).T).square().sum() / count)
        assert error <= other + 3e-3 * energy


def test_a_metric_without_weight_loses_nothing() -> None:
    moment = torch.eye(4, dtype=torch.float64)
    losses, down, up = latent_bases(moment, torch.zeros_like(moment), 100, 1)
    assert not losses.any()
    assert torch.allclose(down @ up, moment)


@torch.no_grad()
@every_family
def test_all_numbers_are_the_dense_function(family: str, options: dict[str, Any]) -> None:
    ids = token_ids(4, 40)
    expected = tiny(family, **options)(ids).logits
    opened, latents = solved(tiny(family, **options), ids, LATENT)
    for index, latent in enumerate(latents):
        opened.put(index, latent.apply(in_float64(opened.source[index]), opened.source[index].qk_rank))
    assert torch.allclose(opened.model(ids).logits, expected, atol=1e-8)


@torch.no_grad()
@every_family
def test_the_padded_layer_is_the_same_function(family: str, options: dict[str, Any]) -> None:
    ids, stock = token_ids(4, 40), tiny(family, **options)
    opened, layers = cut(tiny(family, **options), ids, LATENT, 2)
    for index, weights in enumerate(layers):
        read = opened.family.read(opened.model, index)
        assert (read.query_latent, read.qk_rank) == (
            weights.heads * (2 + index),
            opened.source[index].qk_rank,
        )
        layer = FAMILIES[family].layers(stock)[index]
        FAMILIES[family].write_stock_layer(stock.config, layer, padded_weights(weights, opened.source[index]))
    assert torch.allclose(stock(ids).logits, opened.model(ids).logits, atol=1e-10)
    for index in range(len(layers)):
        opened.reset(index)
    assert torch.allclose(opened.model(ids).logits, tiny(family, **options)(ids).logits, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral", "qwen3"])
def test_a_written_checkpoint_loads_counts_and_generates(family: str, tmp_path: Path) -> None:
    compact, padded, layers = exported(family, {}, tmp_path, LATENT, 2)
    config = json.loads((compact / "config.json").read_text())
    size = 2 * layers[0].heads
    assert config["query_latents"] == [size, 0]
    assert config["qk_ranks"] == [layers[1].qk_rank] * 2
    assert config["ov_joint"] == []
    counted = recount(compact, layer_count=2)
    assert [row["latent"] for row in counted["layers"]] == [size, 0]
    stock = AutoModelForCausalLM.from_pretrained(padded, dtype=torch.float32).eval()
    whole = sum(parameter.numel() for parameter in stock.parameters())
    hidden, queries = layers[0].q_down_DR.shape[0], layers[0].heads * layers[0].qk_rank  # type: ignore[union-attr]
    assert counted["params"] == whole - hidden * queries + size * (hidden + queries)
    model = load_written(compact).float()
    ids = token_ids(2, 12)
    assert torch.allclose(model(ids).logits, stock(ids).logits, atol=1e-4)
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    assert model.generate(ids, **options).tolist() == stock.generate(ids, **options).tolist()


def test_an_engine_finds_a_class_of_its_own_and_may_split_it_by_heads() -> None:
    opened, _ = cut(tiny("llama", kv_heads=2), token_ids(4, 40), LATENT, 2)
    attention, bare = opened.attention(0), opened.family.compact[0]
    assert type(attention) is not type(open_model(tiny("llama")).attention(0))
    plan = bare().base_model_tp_plan
    names = {name for name, part in attention.named_modules() if isinstance(part, torch.nn.Linear)}
    split = {name.rpartition(".")[2] for name in plan if ".self_attn." in name}
    # The latent is made whole on every device; each makes the queries of its own heads of it.
    assert names - split == {"q_down"}


def test_a_layer_is_kept_in_a_file(tmp_path: Path) -> None:
    _, (first, _) = cut(tiny("llama"), token_ids(4, 40), LATENT, 2)
    save_layer(tmp_path / "layer", first)
    assert load_layer(tmp_path / "layer").query_latent == first.query_latent > 0


def test_without_its_moments_there_is_none() -> None:
    opened = open_model(tiny("llama"))
    (first, _) = moments_module.collect(opened, token_ids(2, 10))
    assert solve_queries(in_float64(opened.source[0]), first) is None
