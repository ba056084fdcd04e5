"""One decoded token through the compact attention against SDPA's own definition on repeated keys."""

from __future__ import annotations

import pytest
import torch

from solvers.modeling_rankalloc import _attend_one_token


@pytest.mark.parametrize("mask", ["none", "boolean", "additive", "by head"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(("qk", "ov"), [(8, 8), (6, 7), (9, 4)])
def test_one_token_equals_softmax_over_repeated_keys(
    qk: int, ov: int, heads: int, kv_heads: int, mask: str
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, heads, 1, qk, dtype=torch.float64)
    key = torch.randn(2, kv_heads, 12, qk, dtype=torch.float64)
    value = torch.randn(2, kv_heads, 12, ov, dtype=torch.float64)
    visible = torch.rand(2, 1, 1, 12) < 0.6
    visible[..., -1] = True
    bias = torch.randn(2, heads if mask == "by head" else 1, 1, 12, dtype=torch.float64)
    given = {"none": None, "boolean": visible, "additive": bias, "by head": bias}[mask]
    scores = torch.einsum("bhtr,bhsr->bhts", query, key.repeat_interleave(heads // kv_heads, 1)) * 0.3
    if mask == "boolean":
        scores[~visible.expand_as(scores)] = -torch.inf
    elif mask != "none":
        scores += bias
    exponentials = scores.exp()
    weights = exponentials / exponentials.sum(-1, keepdim=True)
    expected = torch.einsum("bhts,bhsr->bthr", weights, value.repeat_interleave(heads // kv_heads, 1))
    found = _attend_one_token(query, key, value, given, 0.3)
    assert torch.allclose(found, expected.reshape(2, -1), atol=1e-12)


def test_half_precision_is_as_near_as_eager_attention_allows() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 1, 6), torch.randn(1, 2, 300, 6), torch.randn(1, 2, 300, 7)
    exact = _attend_one_token(query.double(), key.double(), value.double(), None, 0.4)
    found = _attend_one_token(query.bfloat16(), key.bfloat16(), value.bfloat16(), None, 0.4)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).abs().max() < 0.02
