"""Full rank is the dense model; truncation shrinks tensors; padding changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.mpt.configuration_mpt import MptAttentionConfig

from solvers.a3 import moments as moments_module
from solvers.a3.compress import solve_layer
from solvers.families import FAMILIES
from solvers.model.padding import padded_weights
from solvers.model.surgery import open_model
from tests.support.models import CASES, case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), CASES, ids=case_id)


@every_family
def test_opened_model_and_running_in_pieces_give_the_dense_logits(family: str, options: dict) -> None:
    model, ids = tiny(family, **options), token_ids(2, 20)
    with torch.no_grad():
        expected = model(ids).logits
        opened = open_model(model)
        assert torch.allclose(opened.model(ids).logits, expected, atol=1e-12)
        hidden, calls = opened.start(ids)
        middle = opened.advance(hidden, calls, 0, 1)
        assert torch.allclose(opened.finish(middle, calls, 1), expected.float(), atol=1e-6)


ROPE = {"rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 4.0}}),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0}}),
        (
            "llama",
            {
                "rope_parameters": {
                    **ROPE,
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_inner": None}),
        (
            "phi3",
            {
                "rope_parameters": {
                    **ROPE,
                    "rope_type": "longrope",
                    "partial_rotary_factor": 1.0,
                    "short_factor": [1.0, 1.5, 2.0],
                    "long_factor": [3.0, 4.0, 5.0],
                    "original_max_position_embeddings": 32,
                }
            },
        ),
        (
            "gpt_neox",
            {
                "rope_parameters": {
                    **ROPE,
                    "rope_type": "linear",
                    "factor": 4.0,
                    "partial_rotary_factor": 0.25,
                }
            },
        ),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}),
        ("qwen3", {"attention_bias": True}),
        ("mixtral", {"sliding_window": 5}),
        ("mpt", {"attn_config": MptAttentionConfig(softmax_scale=0.7)}),
        ("opt", {"activation_function": "gelu", "layer_norm_elementwise_affine": False}),
    ],
)
def test_options_of_the_source_survive_opening(family: str, changes: dict) -> None:
    """Scaled rotary positions and attention scales: opened, in pieces and stock give the same logits."""
    config = copy.deepcopy(tiny(family).config)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    ids = token_ids(2, 40)
    with torch.no_grad():
        expected = model(ids).logits
        opened = open_model(model)
        assert torch.allclose(opened.model(ids).logits, expected, atol=1e-6)
        hidden, calls = opened.start(ids)
        assert torch.allclose(opened.finish(hidden, calls, 0), expected.float(), atol=1e-5)


@every_family
def test_full_rank_solutions_are_the_dense_function(family: str, options: dict) -> None:
    """Not the shortcut that leaves full-rank components dense: the bases themselves at full rank."""
    model, ids = tiny(family, **options), token_ids(4, 40)
    with torch.no_grad():
        expected = model(ids).logits
        opened = open_model(model)
        for index, found in enumerate(moments_module.collect(opened, ids)):
            solution = solve_layer(opened.source[index], found)
            weights = solution.qk.apply(solution.dense, solution.dense.qk_rank)
            weights = solution.ov.apply(weights, solution.dense.ov_rank)
            opened.put(index, solution.mlp.apply(weights, solution.dense.mlp_rank))
        assert torch.allclose(opened.model(ids).logits, expected, atol=1e-8)


@every_family
def test_truncation_shrinks_tensors_keeps_the_scale_and_pads_back(family: str, options: dict) -> None:
    model, ids = tiny(family, **options), token_ids(4, 40)
    stock = tiny(family, **options)
    opened = open_model(model)
    found = moments_module.collect(opened, ids)
    scale, whole = opened.attention(0).scaling, opened.family.fixed
    for index, moments in enumerate(found):
        qk = opened.source[index].qk_rank if "qk" in whole else 4
        cut = solve_layer(opened.source[index], moments).compressed(qk=qk, ov=3 + index, mlp=17)
        opened.put(index, cut)
        attention, mlp = opened.attention(index), opened.layer(index).mlp
        assert attention.q_proj.out_features == qk * attention.heads
        assert attention.k_proj.out_features == qk * attention.kv_heads
        assert attention.v_proj.out_features == (3 + index) * attention.kv_heads
        assert attention.o_proj.in_features == (3 + index) * attention.heads
        assert "mlp" in whole or mlp.down_proj.in_features == 17
        assert attention.scaling == scale or family == "gpt2"
        padded = padded_weights(cut, opened.source[index])
        FAMILIES[family].write_stock_layer(stock.config, FAMILIES[family].layers(stock)[index], padded)
    with torch.no_grad():
        assert torch.allclose(stock(ids).logits, opened.model(ids).logits, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_moments_of_two_batches_add_up(family: str) -> None:
    opened = open_model(tiny(family))
    ids = token_ids(6, 30)
    whole = moments_module.collect(opened, ids)
    parts = moments_module.add(
        moments_module.collect(opened, ids[:2]), moments_module.collect(opened, ids[2:])
    )
    for one, two in zip(whole, parts, strict=True):
        assert one.count == two.count
        for name, tensor in one.tensors().items():
            assert torch.allclose(tensor, two.tensors()[name], rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_moments_layer_by_layer_are_those_of_whole_passes(family: str) -> None:
    opened = open_model(tiny(family))
    parts = token_ids(6, 30).split(2)
    whole = None
    for part in parts:
        whole = moments_module.add(whole, moments_module.collect(opened, part))
    assert whole is not None
    for one, two in zip(moments_module.by_layer(opened, parts), whole, strict=True):
        assert one.count == two.count
        # One adds inside the product (baddbmm), the other after it: on some processors the last bit differs.
        for name, tensor in one.tensors().items():
            assert torch.allclose(tensor, two.tensors()[name], rtol=1e-12, atol=1e-11), name


def test_moments_survive_the_disk(tmp_path) -> None:
    opened = open_model(tiny("llama"))
    found = moments_module.collect(opened, token_ids(2, 20))
    for index, one in enumerate(found):
        moments_module.save(tmp_path / f"{index}.safetensors", one)
        back = moments_module.load(tmp_path / f"{index}.safetensors")
        assert back.count == one.count
        for name, tensor in back.tensors().items():
            exact = one.tensors()[name]
            # The largest by far is stored in float32, one half of it.
            expected = exact.float().double() if name == "mlp_mm" else exact
            assert torch.equal(tensor, expected), name
        assert back.tensors().keys() == one.tensors().keys()


def test_dead_dimensions_and_too_few_tokens_give_no_nan() -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight[:, 24:27] = 0  # three dead key dimensions
        model.transformer.h[0].attn.c_attn.bias[24:27] = 0
    opened = open_model(model)
    for index, found in enumerate(moments_module.collect(opened, token_ids(1, 4))):
        solution = solve_layer(opened.source[index], found)
        for rank in (1, 3, 6):
            cut = solution.compressed(qk=rank, ov=rank, mlp=rank)
            assert all(torch.isfinite(t).all() for t in vars(cut).values() if t is not None)
