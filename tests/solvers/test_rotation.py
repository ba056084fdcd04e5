"""Rotary positions in compact models: one gather per decoding step, and nothing that the stock model does not pay."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, LlamaForCausalLM

from solvers import modeling_rankalloc as modeling
from tests.support.models import given_cache, tiny, token_ids


def compact(layers: int, *, qk: int, ov: int = 8) -> Any:
    """A compact tiny Llama with random kept pairs."""
    config, model_class = modeling.COMPACT["llama"]
    source = tiny("llama", num_hidden_layers=layers)
    sizes = {"qk_ranks": [qk] * layers, "ov_ranks": [ov] * layers, "mlp_ranks": [40] * layers}
    options = {k: v for k, v in source.config.to_dict().items() if k not in ("model_type", "architectures")}
    made = model_class(config(**options, **sizes, attn_implementation="sdpa")).double().eval()
    generator = torch.Generator().manual_seed(3)
    for layer in made.model.layers:
        pairs = layer.self_attn.pairs
        for head in pairs:
            head.copy_(torch.randperm(4, generator=generator)[: pairs.shape[1]].sort().values)
    return made


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def step(model: Any) -> Counter[str]:
    """The operators of one decoding step."""
    cache, ids = DynamicCache(config=model.config), token_ids(1, 30)
    model(ids, **given_cache(model, cache))
    with Calls() as calls:
        model(ids[:, :1], **given_cache(model, cache))
    return calls.seen


def test_decoding_gathers_the_kept_frequencies_once_for_all_layers() -> None:
    few, many = step(compact(2, qk=4, ov=4)), step(compact(6, qk=4, ov=4))
    assert few["index_select"] == many["index_select"] == 2  # cos and sin
    assert few["index"] == many["index"]


def test_a_layer_at_full_rank_runs_no_more_operators_than_the_stock_one() -> None:
    ours = step(compact(6, qk=8)) - step(compact(2, qk=8))
    config = tiny("llama", num_hidden_layers=6).config
    stock = step(LlamaForCausalLM(config).double().eval())
    config = tiny("llama", num_hidden_layers=2).config
    stock -= step(LlamaForCausalLM(config).double().eval())
    assert ours.total() <= stock.total()


@pytest.mark.parametrize("tokens", [1, 8, 16, 17, 30])
@torch.no_grad()
def test_tables_gathered_for_all_layers_rotate_as_each_layer_s_own(tokens: int) -> None:
    model = compact(3, qk=4)
    positions = torch.arange(tokens)[None]
    angles = model.model.rotary_emb(torch.zeros(1, tokens, 24, dtype=torch.float64), position_ids=positions)
    assert len(angles.kept) == (3 if tokens <= 16 else 0)
    query, key = torch.randn(1, 4, tokens, 4).double(), torch.randn(1, 2, tokens, 4).double()
    for layer in model.model.layers:
        attention = layer.self_attn
        plain = attention.rotated(query, key, tuple(angles))
        for one, two in zip(plain, attention.rotated(query, key, angles), strict=True):
            assert torch.equal(one, two)
        cos, sin = (table[0, :, :4] for table in angles)
        for head in range(2):  # by hand: dimension j with j + 2, at the kept pair's angle
            kept = attention.pairs[head].long()
            first, second = key[0, head, :, :2], key[0, head, :, 2:]
            expected = torch.cat(
                (
                    first * cos[:, kept] - second * sin[:, kept],
                    second * cos[:, kept] + first * sin[:, kept],
                ),
                dim=-1,
            )
            assert torch.allclose(plain[1][0, head], expected, atol=1e-12)


@torch.no_grad()
def test_a_copy_of_a_model_looks_at_its_own_pairs() -> None:
    model, ids = compact(2, qk=4), token_ids(1, 6)
    other = copy.deepcopy(model)
    for layer in other.model.layers:
        layer.self_attn.pairs.copy_(torch.tensor([[0, 1], [0, 1]]))
    assert torch.equal(copy.deepcopy(model)(ids).logits, model(ids).logits)
    assert not torch.equal(other(ids).logits, model(ids).logits)
