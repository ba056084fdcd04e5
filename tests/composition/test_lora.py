"""Compact checkpoints go on to LoRA with peft: adapters find the layers, learn, merge and survive the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.composition.conftest import Compact

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def loss_of(model: torch.nn.Module, windows: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(windows, labels=windows).loss)


# peft asks transformers by a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_learns_merges_and_reloads(checkpoint: Compact, tmp_path: Path) -> None:
    windows = checkpoint.cut.calibration.fit(16)[:, :64]
    plain = checkpoint.load()
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(checkpoint.load(), config)
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    if plain.config.model_type == "rankalloc_llama":
        kinds.add("gate_proj")
    layers = plain.config.num_hidden_layers
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert len(adapted) == layers * len(kinds)
    assert {name.split(".")[-2] for name in adapted} == kinds
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(adapted)

    before = loss_of(model, windows)
    assert before == loss_of(plain, windows), "an adapter starts as zero"
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    for step in range(12):
        batch = windows[4 * step % 16 :][:4]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    model.eval()
    after = loss_of(model, windows)
    assert after < before - 0.02

    model.save_pretrained(tmp_path / "adapter")
    adapter = PeftModel.from_pretrained(checkpoint.load(), tmp_path / "adapter").eval()
    assert abs(loss_of(adapter, windows) - after) < 1e-5

    merged = model.merge_and_unload()
    assert abs(loss_of(merged, windows) - after) < 1e-4
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in merged.state_dict().items()} == shapes
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(again(windows[:2]).logits, merged(windows[:2]).logits)
