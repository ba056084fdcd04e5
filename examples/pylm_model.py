"""The two small architectures of the example models, with the start their training needs."""

from __future__ import annotations

import pylm_data
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

CONTEXT = 256  # tokens in a training window


def build_model(kind: str, vocab_size: int) -> PreTrainedModel:
    """Return a new model of about 1.3 million parameters; `kind` is "llama" or "gpt2"."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), pylm_data.BOS_ID)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=2 * CONTEXT,
            tie_word_embeddings=True,
            **ids,
        )
        model: PreTrainedModel = LlamaForCausalLM(config)
    else:
        gpt2_config = GPT2Config(
            vocab_size=vocab_size,
            n_positions=CONTEXT,
            n_embd=128,
            n_layer=5,
            n_head=4,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            **ids,
        )
        model = GPT2LMHeadModel(gpt2_config)
        model.transformer.wpe.weight.data = waves(CONTEXT, 128)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "c_proj.weight")):
            nn.init.zeros_(parameter)  # every block starts as the identity, which allows high rates
    return model


def waves(length: int, size: int) -> Tensor:
    """Return (length, size) sines and cosines, the start of the learned positions.

    Their frequencies are evenly spaced, so a head can single out "the token before" at once; from
    noise that took thousands of steps.  They are about as large as trained token embeddings.
    """
    frequencies = 2.5 * torch.arange(1, size // 2 + 1) / (size // 2)  # radians a token
    angles = torch.arange(length)[:, None] * frequencies
    return 0.25 * torch.cat([angles.sin(), angles.cos()], dim=1)
