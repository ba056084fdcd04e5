"""Compact checkpoints go on to weight-only quantization by torchao, through transformers' own configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
from transformers import AutoModelForCausalLM, TorchAoConfig

from solvers.quantization import (
    can_pack,
    group_size,
    packing_steps,
    planned_bits,
    stored_bytes,
    weight_only,
)
from tests.composition.conftest import Compact, compact, kl_nats
from tests.e2e.conftest import clean_environment


def decoder_linears(model: Any) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }


@pytest.mark.parametrize(("bits", "largest_kl"), [(8, 0.005), (4, 0.15)])
def test_a_compact_checkpoint_is_quantized_generates_and_survives_the_disk(
    checkpoint: Compact, bits: int, largest_kl: float, tmp_path: Path
) -> None:
    plain = checkpoint.load()
    quantized = checkpoint.load(quantization_config=weight_only(checkpoint.folder, bits=bits))
    for name, layer in decoder_linears(plain).items():
        weight = quantized.get_submodule(name).weight
        assert weight.qdata.dtype == torch.int8
        assert weight.qdata.untyped_storage().nbytes() == layer.in_features * layer.out_features
        # A layer that no group divides takes eight bits: down_proj of the Llama has 284 inputs here.
        size = group_size(layer.in_features) if bits == 4 else None
        assert len(weight.qdata.unique()) <= 2 ** (8 if size is None else bits)
        if size is not None:
            assert weight.scale.shape[1] * size == layer.in_features
        assert not torch.equal(weight.dequantize(), layer.weight)
    assert torch.equal(quantized.lm_head.weight, plain.lm_head.weight)
    assert stored_bytes(quantized) < 0.55 * stored_bytes(plain)

    windows = checkpoint.held_out
    assert 0 < kl_nats(plain, quantized, windows) < largest_kl
    prompt = windows[:2, :20]
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(prompt)
    written = quantized.generate(prompt, **options)
    assert torch.equal(written, quantized.generate(prompt, use_cache=False, **options))

    quantized.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(again(windows).logits, quantized(windows).logits)
    held = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert held < 1.1 * stored_bytes(quantized)


def test_one_group_size_for_all_does_not_load(checkpoint: Compact) -> None:
    """Why ``weight_only`` chooses per layer: 100 inputs of o_proj (4 heads at rank 25) are no multiple of 32."""
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    with pytest.raises(RuntimeError, match="issues during automatic conversion"):
        checkpoint.load(quantization_config=TorchAoConfig(config))


def test_ranks_in_packing_steps_hold_two_weights_in_a_byte(tmp_path: Path) -> None:
    aligned = compact("pylm-llama", tmp_path, block_params="0.8", packable=True)
    steps = packing_steps(heads=4, kv_heads=2)
    assert steps == {"qk": 8, "ov": 8, "mlp": 32}
    for component in ("qk", "ov", "mlp"):
        assert all(rank % steps[component] == 0 for rank in aligned.cut.ranks.of(component))
    plain = aligned.load()
    packed = aligned.load(quantization_config=weight_only(aligned.folder, bits=4, packed=True))
    for name, layer in decoder_linears(plain).items():
        weight = packed.get_submodule(name).weight
        assert 2 * weight.qdata.untyped_storage().nbytes() == layer.in_features * layer.out_features
    assert 0 < kl_nats(plain, packed, aligned.held_out) < 0.15
    with pytest.raises(ValueError, match=r"Unsupported tensor type.*Int4OpaqueTensor"):
        packed.save_pretrained(tmp_path / "packed")


def test_layers_that_cannot_be_packed_take_eight_bits(checkpoint: Compact) -> None:
    packed = checkpoint.load(quantization_config=weight_only(checkpoint.folder, bits=4, packed=True))
    for layer in decoder_linears(packed).values():
        halves = 1 if can_pack(layer.in_features, layer.out_features) else 2
        assert 2 * layer.weight.qdata.numel() == halves * layer.in_features * layer.out_features
    with torch.no_grad():
        assert torch.isfinite(packed(checkpoint.held_out).logits).all()


def test_group_sizes_divide_and_a_prime_has_none() -> None:
    assert [group_size(size) for size in (128, 100, 285, 36, 283)] == [32, 25, 19, 18, None]


def test_a_checkpoint_whose_plan_chose_no_bits_has_to_be_told(checkpoint: Compact) -> None:
    assert planned_bits(checkpoint.folder) == {}
    with pytest.raises(ValueError, match="its plan chose no bits; say bits=8 or bits=4"):
        weight_only(checkpoint.folder)


@pytest.mark.parametrize(("bits", "packed"), [(3, False), (8, True)])
def test_other_widths_are_refused(bits: int, packed: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use 8, 4, or 4 with packed=True"):
        weight_only(tmp_path, bits=bits, packed=packed)


REMOTE = """
import sys
from pathlib import Path
sys.path = [p for p in sys.path if not (Path(p or ".") / "solvers").is_dir()]
import torch
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig
folder, out = sys.argv[1:]
config = TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
options = dict(dtype=torch.float32, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, **options).eval()
model.save_pretrained(out)
again = AutoModelForCausalLM.from_pretrained(out, **options).eval()
ids = torch.arange(1, 41).view(1, -1)
with torch.no_grad():
    assert torch.equal(again(ids).logits, model(ids).logits)
    torch.save(model(ids).logits, out + "/logits.pt")
assert type(again).__module__.startswith("transformers_modules"), type(again)
assert "solvers" not in sys.modules
"""


def test_the_same_without_this_package(tmp_path: Path) -> None:
    """Remote code alone: quantized, saved and loaded again in a process that cannot import ``solvers``."""
    made = compact("pylm-llama", tmp_path / "compact", block_params="0.8")
    out = tmp_path / "quantized"
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, str(made.folder), str(out)],
        env=clean_environment(HF_HOME=str(tmp_path / "hf")),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    config = TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    here = made.load(quantization_config=config)
    with torch.no_grad():
        assert torch.allclose(
            here(torch.arange(1, 41).view(1, -1)).logits, torch.load(out / "logits.pt"), atol=1e-5
        )
