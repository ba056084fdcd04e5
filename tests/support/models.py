"""Small models in float64 for exact comparisons. Weights are random but not isotropic, so that losses differ
by rank.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config


def tiny(family: str, *, kv_heads: int = 2, seed: int = 0, attention_bias: bool = False) -> Any:
    """A tiny Llama ("llama"), Qwen2 ("qwen2") or GPT-2 ("gpt2") in float64 with spread singular values and
    live biases.
    """
    common: dict[str, Any] = {
        "vocab_size": 61,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "attn_implementation": "sdpa",
    }
    if family == "gpt2":
        config: Any = GPT2Config(n_embd=24, n_layer=2, n_head=4, n_inner=40, n_positions=64, **common)
    else:
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family]
        config = kind(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            intermediate_size=40,
            max_position_embeddings=64,
            tie_word_embeddings=family == "qwen2",
            **(
                {"attention_bias": attention_bias, "mlp_bias": attention_bias, "head_dim": 8}
                if family == "llama"
                else {}
            ),
            **common,
        )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                scale = torch.logspace(0, -1.5, parameter.shape[-1], dtype=torch.float64)
                parameter.mul_(12 * scale[torch.randperm(parameter.shape[-1])])
            elif "bias" in name:
                parameter.normal_(std=0.3)
    return model


def token_ids(batch: int = 6, length: int = 40, *, vocab: int = 61, seed: int = 1) -> torch.Tensor:
    """Random token ids (batch, length)."""
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))
