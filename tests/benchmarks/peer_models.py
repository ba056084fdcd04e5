"""Small models of the families that the peers know, and their raw activations."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig

from benchmarks.peers.blocks import blocks
from tests.support.models import tiny, token_ids

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "opt")


def model_of(family: str) -> Any:
    """Two small blocks in float64; NeoX rotates half of each head and runs attention and MLP in parallel."""
    common: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    if family == "gpt_neox":
        config: Any = GPTNeoXConfig(
            intermediate_size=40, max_position_embeddings=64, rotary_pct=0.5, **common
        )
    elif family == "opt":
        config = OPTConfig(ffn_dim=40, max_position_embeddings=64, word_embed_proj_dim=24, **common)
    else:
        return tiny(family)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(6 * torch.logspace(0, -1, parameter.shape[-1], dtype=torch.float64))
            elif "bias" in name:
                parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(token_ids()).logits


@torch.no_grad()
def activations(model: Any, index: int) -> dict[str, torch.Tensor]:
    """Raw inputs (tokens, in) of every matrix of one block, and outputs (tokens, out) under "out:NAME"."""
    caught: dict[str, torch.Tensor] = {}
    block = blocks(model)[index]
    handles = []
    for name, slot in block.slots.items():

        def keep(module: Any, args: Any, output: Any, name: str = name, slot: Any = slot) -> None:
            caught[name] = args[0].flatten(0, -2)
            whole = output.flatten(0, -2)
            caught[f"out:{name}"] = whole if slot.rows is None else whole[:, slot.rows]

        handles.append(slot.module.register_forward_hook(keep))
    model(token_ids())
    for handle in handles:
        handle.remove()
    return caught


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    U, sigma, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] @ torch.diag(sigma[:rank]) @ Vh[:rank]


def symmetric_root(second: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(second)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
