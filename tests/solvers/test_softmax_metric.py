"""Queries and keys of ``a3+`` against attention itself: its KL's curvature is the metric, and pairs leave one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.a3 import metric
from solvers.a3 import moments as moments_module
from solvers.a3.compress import solve_layer
from solvers.a3.qk_gains import eliminate_pairs
from solvers.a3.steps import Steps
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights
from tests.solvers.test_a3_plus import QK, psd, solved
from tests.solvers.test_literal import LAYER, PARTIAL, PLAIN, ROTARY
from tests.support.models import tiny, token_ids


def rotary_states(family: str, options: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor, Any]:
    """A layer's attention, its rotated queries and keys, and its mask."""
    opened, ids = open_model(tiny(family, **options)), token_ids()
    hidden, calls = opened.start(ids)
    hidden = opened.advance(hidden, calls, 0, LAYER)
    caught: dict[str, torch.Tensor] = {}
    attention = opened.attention(LAYER)
    handle = attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(x=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    opened.advance(hidden, calls, LAYER, LAYER + 1)
    handle.remove()
    with torch.no_grad():
        query, key, _ = attention.project(caught["x"])
        query, key = attention.rotated(query, key, calls[LAYER]["position_embeddings"])
    return attention, query, key, calls[LAYER].get("attention_mask")


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL])
def test_the_pair_gram_is_the_curvature_of_the_attention_s_kl(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL between attention rows before and after small complex gains, computed by softmax alone."""
    monkeypatch.setattr(metric, "ROWS", 10_000)
    attention, query, key, mask = rotary_states(family, options)
    heads, size = query.shape[1], 2 * attention.pairs.shape[1]
    gram = metric.pair_gram(attention, query, key, mask)
    generator = torch.Generator().manual_seed(0)
    change = 1e-4 * torch.randn(heads, size, generator=generator, dtype=torch.float64)
    complex_q = torch.complex(*query[..., :size].chunk(2, dim=-1))
    gains = torch.complex(1 + change[:, : size // 2], -change[:, size // 2 :])
    turned = complex_q * gains[None, :, None]
    repeated = key.repeat_interleave(heads // key.shape[1], dim=1)
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    visible = causal if mask is None else mask if mask.dtype == torch.bool else mask == 0

    def rows(queries: torch.Tensor) -> torch.Tensor:
        scores = queries @ repeated.mT * attention.scaling
        if attention.softcap is not None:
            scores = torch.tanh(scores / attention.softcap) * attention.softcap
        return scores.masked_fill(~visible, -torch.inf).log_softmax(-1)

    before = rows(query)
    after = rows(torch.cat([turned.real, turned.imag, query[..., size:]], dim=-1))
    kl = torch.where(visible, before.exp() * (before - after), 0.0).sum((0, 2, 3))
    expected = torch.einsum("hi,hij,hj->h", change, gram, change)
    assert torch.allclose(kl, expected, rtol=2e-3)


def test_fewer_rows_estimate_the_same_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, query, key, mask = rotary_states("llama", {"kv_heads": 2})
    sampled = metric.pair_gram(attention, query, key, mask)
    monkeypatch.setattr(metric, "ROWS", 10_000)
    exact = metric.pair_gram(attention, query, key, mask)
    assert 0 < (sampled - exact).norm() < 0.35 * exact.norm()


def test_linear_position_biases_are_part_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALiBi: the sampled rows are those that the model itself attends with."""
    monkeypatch.setattr(metric, "ROWS", 10_000)
    opened, ids = open_model(tiny("mpt")), token_ids()
    hidden, calls = opened.start(ids)
    caught: dict[str, torch.Tensor] = {}
    attention = opened.attention(0)
    attention.q_proj.register_forward_hook(lambda m, a, out: caught.update(q=out))
    attention.k_proj.register_forward_hook(lambda m, a, out: caught.update(k=out))
    attention.register_forward_hook(lambda m, a, out: caught.update(p=out[1]))
    opened.advance(hidden, calls, 0, 1)
    query, key = (caught[name].unflatten(-1, (4, -1)).transpose(1, 2) for name in "qk")
    mask = metric.additive_mask(calls[0])
    probabilities, _ = metric.attention_rows(attention, query, key, metric.sampled_rows(40), mask)
    assert torch.allclose(probabilities, caught["p"].double(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    half=st.integers(1, 6), kv_heads=st.integers(1, 3), group=st.integers(1, 3), seed=st.integers(0, 10_000)
)
def test_pair_elimination_is_greedy_with_refitted_gains(
    half: int, kv_heads: int, group: int, seed: int
) -> None:
    grams = torch.stack([psd(2 * half, seed + n) for n in range(kv_heads * group)])
    grams = grams.view(kv_heads, group, 2 * half, 2 * half)
    order, losses = eliminate_pairs(grams, 1e-9)

    def loss(key: int, pairs: list[int]) -> float:
        dimensions = torch.tensor(pairs + [pair + half for pair in pairs], dtype=torch.long)
        dense = torch.cat([torch.ones(half), torch.zeros(half)]).double()
        total = 0.0
        for gram in grams[key]:
            fitted = dense.clone()
            fitted[:] = 0
            if pairs:
                fitted[dimensions] = torch.linalg.solve(
                    gram[dimensions][:, dimensions], gram[dimensions] @ dense
                )
            total += float((dense - fitted) @ gram @ (dense - fitted))
        return total

    for kept in range(half + 1):
        expected = sum(loss(key, order[key, :kept].tolist()) for key in range(kv_heads))
        assert float(losses[kept]) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    for key in range(kv_heads):
        for kept in range(half, 0, -1):
            now = order[key, :kept].tolist()
            options = [loss(key, [pair for pair in now if pair != gone]) for gone in now]
            assert loss(key, order[key, : kept - 1].tolist()) <= min(options) * (1 + 1e-6) + 1e-9


def attention_kl(opened: Any, cut: LayerWeights) -> float:
    """Mean KL of the attention rows of the layer with ``cut`` to the dense ones, by running both."""
    rows = []
    opened.model.config._attn_implementation = "eager"
    for weights in (opened.source[LAYER], cut):
        opened.put(LAYER, weights)
        caught: dict[str, torch.Tensor] = {}
        opened.attention(LAYER).register_forward_hook(lambda m, a, out, into=caught: into.update(p=out[1]))
        with torch.no_grad():
            opened.model(token_ids())
        rows.append(caught["p"].double().clamp_min(1e-300))
    opened.reset(LAYER)
    return float((rows[0] * (rows[0].log() - rows[1].log())).sum(-1).mean())


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN])
def test_the_metric_lowers_the_attention_s_kl(family: str, options: dict[str, Any]) -> None:
    """On average over ranks: the metric is of second order, so single ranks may go the other way."""
    case, solution = solved(family, options, QK)
    opened = open_model(tiny(family, **options))
    sums = [
        sum(attention_kl(opened, s.compressed(qk=rank)) for rank in (2, 4)) for s in (case.solution, solution)
    ]
    assert sums[1] < sums[0]


def test_a_shift_of_all_keys_costs_no_rank_without_rotary_positions() -> None:
    """Softmax cannot see a score that all keys share, so a large common key must not use up a dimension."""
    model, ids = tiny("gpt2"), token_ids()
    with torch.no_grad():
        attention = model.transformer.h[LAYER].attn
        keys = slice(24, 48)
        attention.c_attn.weight[:, :48] *= 4  # attention that is far from flat
        attention.c_attn.bias[keys] += 50 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    opened = open_model(model)
    moments = moments_module.collect(opened, ids)[LAYER]
    paper, ours = (
        attention_kl(opened, solve_layer(opened.source[LAYER], moments, steps).compressed(qk=3))
        for steps in (Steps(), QK)
    )
    assert ours < 0.8 * paper
