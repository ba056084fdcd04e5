"""Moments added up in place, batch by batch and chunk by chunk, against the tokens themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from solvers.a3 import grams, metric, moments
from solvers.model.surgery import open_model
from tests.solvers.test_literal import LAYER, PARTIAL, PLAIN, ROTARY, literal
from tests.support.models import tiny, token_ids


@pytest.mark.parametrize(("family", "options"), [ROTARY[1], PARTIAL[1], PLAIN[0]])
@pytest.mark.parametrize("chunk", [1, 100, 1 << 24])
def test_batches_and_chunks_add_up_to_the_moments_of_all_tokens(
    family: str, options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, ids = literal(family, options), token_ids()
    at_once = moments.collect(open_model(tiny(family, **options)), ids)[LAYER]
    monkeypatch.setattr(grams, "_CHUNK", chunk)
    monkeypatch.setattr(metric, "_CHUNK", chunk)
    opened = open_model(tiny(family, **options))
    summed = list(moments.by_layer(opened, ids.split(1)))[LAYER]
    assert summed.count == len(case.x) == ids.numel()
    assert torch.allclose(summed.mlp_mm, case.mlp_x.T @ case.mlp_x)
    assert torch.allclose(summed.mlp_m, case.mlp_x.sum(0))
    weights, group = case.weights, case.weights.heads // case.weights.kv_heads
    for name, projection, bias in (
        ("q_Hhh", weights.q_DHr, weights.q_bias_Hr),
        ("k_Khh", weights.k_DKr, weights.k_bias_Kr),
        ("v_Khh", weights.v_DKr, weights.v_bias_Kr),
    ):
        states = torch.einsum("nd,dhi->hni", case.x, projection)
        states = states if bias is None else states + bias.unsqueeze(1)
        assert torch.allclose(getattr(summed, name), states.mT @ states), name
    for head in range(weights.heads):
        z = case.attended[head] @ weights.v_DKr[:, head // group]
        if weights.v_bias_Kr is not None:
            z = z + weights.v_bias_Kr[head // group]
        assert torch.allclose(summed.z_Hhh[head], z.T @ z)
    # What the softmax's metric says of all of them at once is tested against the attention's KL elsewhere.
    assert summed.tensors().keys() == at_once.tensors().keys()
    for name, tensor in at_once.tensors().items():
        assert torch.allclose(getattr(summed, name), tensor), name


@pytest.mark.parametrize("size", [4, 6, 7])
def test_wide_sums_are_those_of_all_tokens_and_come_back_from_their_panels(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grams, "_WIDE", 3)
    monkeypatch.setattr(grams, "_TOKENS", 5)
    generator = torch.Generator().manual_seed(size)
    states = torch.randn(2, 1, 8, size, generator=generator, dtype=torch.float64)
    sums: dict[str, torch.Tensor] = {}
    for batch in states.split(1):
        grams.add_gram(sums, "x", batch)
    (gram,), rows = sums["x"], states.flatten(0, 2)
    assert torch.allclose(gram, rows.T @ rows)
    stored = dict(grams.panels(gram))
    assert [tuple(panel.shape) for panel in stored.values()][:2] == [(3, 3), (min(size, 6) - 3, min(size, 6))]
    assert torch.equal(grams.from_panels(size, stored.__getitem__), gram)


@pytest.mark.parametrize("size", [1, 4, 5, 9])
def test_a_sum_whose_upper_half_comes_last_is_that_of_all_tokens(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of four rows: one, one whole, one begun, two and one begun. What is above the diagonal counts for nothing."""
    monkeypatch.setattr(grams, "_NARROW", 4)
    rows = torch.randn(24, size, generator=torch.Generator().manual_seed(size))
    lower = torch.zeros(size, size, dtype=torch.float64)
    for part in rows.split(10):
        grams.add_lower(lower, part)
    exact = rows.double().T @ rows.double()
    assert torch.allclose(grams.mirrored(lower), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(grams.mirrored(lower), grams.mirrored(lower.tril()))
    assert torch.equal(grams.mirrored(lower), grams.mirrored(lower).T)
