"""Small models in float64 for exact comparisons. Weights are random but not isotropic, so that losses differ
by rank.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from solvers.families import FAMILIES

_TIED = {"tie_word_embeddings": True}
_GEMMA = {**_TIED, "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 5}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {"head_dim": 8}),
    "mistral": (MistralConfig, {"head_dim": 8, "sliding_window": 7}),
    "qwen2": (Qwen2Config, _TIED),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma": (GemmaConfig, {**_TIED, "head_dim": 8}),
    "gemma2": (Gemma2Config, {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3_text": (Gemma3TextConfig, {**_GEMMA, "layer_types": [_SLIDING, _FULL]}),
    "phi3": (Phi3Config, {"sliding_window": 7}),
    "mixtral": (MixtralConfig, {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}),
    "gpt2": (GPT2Config, {"n_inner": 40}),
    "gpt_neox": (
        GPTNeoXConfig,
        {"hidden_size": 32, "rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    ),
    "opt": (OPTConfig, {**_TIED, "ffn_dim": 40, "word_embed_proj_dim": 24}),
    "mpt": (MptConfig, {**_TIED, "max_seq_len": 64}),
}

SLIDING_QWEN: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
"""Qwen2 and Qwen3 whose second layer has a window."""
PARTIAL_PHI: dict[str, Any] = {
    "hidden_size": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
}
"""Phi-3 that rotates half of each head."""


CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"kv_heads": 4}),
    ("llama", {"kv_heads": 2, "attention_bias": True}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen2", SLIDING_QWEN),
    ("qwen3", SLIDING_QWEN),
    ("gemma", {"kv_heads": 1}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("phi3", {}),
    ("phi3", PARTIAL_PHI),
    ("mixtral", {}),
    ("gpt2", {}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False, "enable_bias": False}),
    ("mpt", {}),
]
"""Every family and the options that change its layers."""


def case_id(value: Any) -> str:
    """A short name of a case for pytest."""
    if isinstance(value, dict):
        return "-".join(value) or "plain"
    return value if isinstance(value, str) else value.__name__


def tiny(
    family: str, *, kv_heads: int = 2, seed: int = 0, attention_bias: bool = False, **changes: Any
) -> Any:
    """A tiny model of any family, by ``model_type``, in float64 with spread singular values and live biases.

    Args:
        changes: further options of the family's config.
    """
    kind, own = _OWN[family]
    options: dict[str, Any] = {
        "vocab_size": 61,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0 if family in ("opt", "phi3") else None,
        "attn_implementation": FAMILIES[family].attention_implementation,
        "experts_implementation": "eager",  # the fast one knows no float64
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    if family not in ("gpt2", "opt", "mpt"):
        options["intermediate_size"] = 40
    if family not in ("gpt2", "opt", "mpt", "gpt_neox"):
        options["num_key_value_heads"] = kv_heads
    if family == "llama":
        options |= {"attention_bias": attention_bias, "mlp_bias": attention_bias}
    if family == "mpt":
        del options["max_position_embeddings"]
    config = kind(**options | {"tie_word_embeddings": False} | own | changes)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                scale = torch.logspace(0, -1.5, parameter.shape[-1], dtype=torch.float64)
                parameter.mul_(12 * scale[torch.randperm(parameter.shape[-1])])
            elif "bias" in name or "q_norm" in name or "k_norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def token_ids(batch: int = 6, length: int = 40, *, vocab: int = 61, seed: int = 1) -> torch.Tensor:
    """Random token ids (batch, length)."""
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def save(model: Any, folder: Path) -> None:
    """Write a model and a tokenizer of as many words as it knows."""
    model.save_pretrained(folder)
    words = {f"w{n}": n for n in range(model.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def given_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The cache as an argument of the model, by the name that this version of transformers has for it."""
    names = inspect.signature(model.forward).parameters
    return {next(name for name in ("cache", "past_key_values") if name in names): cache}


def cache_of(generated: Any) -> Any:
    """The cache of what ``generate`` returned, by either name."""
    return getattr(generated, "cache", None) or generated.past_key_values
