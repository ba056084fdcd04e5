"""Causal language models whose attention and MLP sizes differ from layer to layer.

This file travels inside every *compact* checkpoint that rankalloc writes, so it needs nothing but torch and transformers.
It changes inner sizes only: same matrix products, same residual stream, same softmax scale as the source model.

Sizes of layer l: ``config.qk_ranks[l]`` dimensions per query and key head, ``config.ov_ranks[l]`` per value head,
``config.mlp_ranks[l]`` intermediate neurons. Shape suffixes: B batch, T tokens, D hidden, H query heads, K key/value heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, LlamaConfig, Qwen2Config
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt2.modeling_gpt2 import GPT2Block, GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2ForCausalLM


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (B, heads, T, r) by angles (B, heads, T, r/2); dimension j is paired with j + r/2."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _repeat(states: torch.Tensor, times: int) -> torch.Tensor:
    return states if times == 1 else states.repeat_interleave(times, dim=1)


def _eager_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    key, value = (_repeat(states, module.num_key_value_groups) for states in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MixedRankAttention(nn.Module):
    """Causal attention with ``qk_rank`` dimensions for scores and ``ov_rank`` for values, per head.

    With ``rotary``, ``pairs`` (K, qk_rank/2) says which of the source's head_dim/2 frequencies each key/value head kept.
    ``scaling`` is the source model's: the scores approximate the source's scores, not those of a smaller head.
    """

    def __init__(
        self,
        config: Any,
        layer_idx: int,
        *,
        hidden_size: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        qk_rank: int,
        ov_rank: int,
        scaling: float,
        rotary: bool,
        qkv_bias: bool,
        o_bias: bool,
        sliding_window: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.heads, self.kv_heads = heads, kv_heads
        self.num_key_value_groups = heads // kv_heads
        self.head_dim, self.qk_rank, self.ov_rank = head_dim, qk_rank, ov_rank
        self.scaling = scaling
        self.is_causal = True
        self.sliding_window = sliding_window
        self.attention_dropout = getattr(config, "attention_dropout", getattr(config, "attn_pdrop", 0.0))
        self.q_proj = nn.Linear(hidden_size, heads * qk_rank, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden_size, kv_heads * qk_rank, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden_size, kv_heads * ov_rank, bias=qkv_bias)
        self.o_proj = nn.Linear(heads * ov_rank, hidden_size, bias=o_bias)
        if rotary:
            kept = torch.arange(qk_rank // 2, dtype=torch.uint8).expand(kv_heads, -1).clone()
            self.register_buffer("pairs", kept)
        else:
            self.pairs = None

    def rotated(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply each head's own frequencies to query (B, H, T, r) and key (B, K, T, r)."""
        if self.pairs is None:
            return query, key
        kept = self.pairs.long()
        # Both halves of Hugging Face's cos and sin tables are equal; (B, T, K, r/2) -> (B, K, T, r/2).
        cos, sin = (table[..., kept].permute(0, 2, 1, 3) for table in position_embeddings)
        groups = self.num_key_value_groups
        return _rotate(query, _repeat(cos, groups), _repeat(sin, groups)), _rotate(key, cos, sin)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, T, r_qk), keys (B, K, T, r_qk) and values (B, K, T, r_ov) before any rotation."""
        shape = hidden_states.shape[:-1]
        query = self.q_proj(hidden_states).view(*shape, self.heads, self.qk_rank).transpose(1, 2)
        key = self.k_proj(hidden_states).view(*shape, self.kv_heads, self.qk_rank).transpose(1, 2)
        value = self.v_proj(hidden_states).view(*shape, self.kv_heads, self.ov_rank).transpose(1, 2)
        return query, key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_key_values: Any | None = None,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        query, key, value = self.project(hidden_states)
        query, key = self.rotated(query, key, position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        implementation = self.config._attn_implementation
        width = max(self.qk_rank, self.ov_rank)
        # Fast kernels want equal sizes; zero columns change nothing. The cache holds the unpadded tensors, and one-token
        # decoding is faster without padding.
        if query.shape[2] > 1 and implementation != "eager":
            query, key, value = (nn.functional.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, _eager_attention)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **{
                k: v
                for k, v in kwargs.items()
                if k not in ("use_cache", "position_ids", "encoder_attention_mask")
            },
        )
        output = output[..., : self.ov_rank].reshape(*hidden_states.shape[:-1], self.heads * self.ov_rank)
        return self.o_proj(output), weights


class MixedRankMLP(nn.Module):
    """``down(act(gate x) * up x)``, or ``down(act(up x))`` where the source has no gate; ``rank`` neurons inside."""

    def __init__(
        self, *, hidden_size: int, rank: int, activation: str, gated: bool, inner_bias: bool, down_bias: bool
    ) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, rank, bias=inner_bias) if gated else None
        self.up_proj = nn.Linear(hidden_size, rank, bias=inner_bias)
        self.down_proj = nn.Linear(rank, hidden_size, bias=down_bias)
        self.act_fn = ACT2FN[activation]

    def inner(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input of ``down_proj``: (B, T, rank)."""
        up = self.up_proj(hidden_states)
        return self.act_fn(up) if self.gate_proj is None else self.act_fn(self.gate_proj(hidden_states)) * up

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.inner(hidden_states))


def llama_attention(config: Any, layer: int, qk_rank: int, ov_rank: int) -> MixedRankAttention:
    """Attention of one Llama or Qwen2 layer (Qwen2: biases on q, k, v and an optional sliding window)."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    qwen = isinstance(config, Qwen2Config)
    sliding = qwen and config.layer_types[layer] == "sliding_attention"
    return MixedRankAttention(
        config,
        layer,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        qk_rank=qk_rank,
        ov_rank=ov_rank,
        scaling=head_dim**-0.5,
        rotary=True,
        qkv_bias=True if qwen else config.attention_bias,
        o_bias=False if qwen else config.attention_bias,
        sliding_window=config.sliding_window if sliding else None,
    )


def llama_mlp(config: Any, rank: int) -> MixedRankMLP:
    """MLP of one Llama or Qwen2 layer."""
    bias = getattr(config, "mlp_bias", False)
    return MixedRankMLP(
        hidden_size=config.hidden_size,
        rank=rank,
        activation=config.hidden_act,
        gated=True,
        inner_bias=bias,
        down_bias=bias,
    )


def gpt2_attention(config: Any, layer: int, qk_rank: int, ov_rank: int) -> MixedRankAttention:
    """Attention of one GPT-2 layer: learned positions (no rotation), biases everywhere."""
    head_dim = config.hidden_size // config.num_attention_heads
    scaling = head_dim**-0.5 if config.scale_attn_weights else 1.0
    if config.scale_attn_by_inverse_layer_idx:
        scaling /= layer + 1
    return MixedRankAttention(
        config,
        layer,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_dim,
        qk_rank=qk_rank,
        ov_rank=ov_rank,
        scaling=scaling,
        rotary=False,
        qkv_bias=True,
        o_bias=True,
    )


def gpt2_mlp(config: Any, rank: int) -> MixedRankMLP:
    """MLP of one GPT-2 layer: no gate, biases."""
    return MixedRankMLP(
        hidden_size=config.hidden_size,
        rank=rank,
        activation=config.activation_function,
        gated=False,
        inner_bias=True,
        down_bias=True,
    )


class _Ranks:
    """Mixed into a stock config: the ranks of every layer."""

    def __init__(
        self,
        qk_ranks: list[int] | None = None,
        ov_ranks: list[int] | None = None,
        mlp_ranks: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.qk_ranks, self.ov_ranks, self.mlp_ranks = qk_ranks or [], ov_ranks or [], mlp_ranks or []
        super().__init__(**kwargs)


class RankallocLlamaConfig(_Ranks, LlamaConfig):
    model_type = "rankalloc_llama"


class RankallocQwen2Config(_Ranks, Qwen2Config):
    model_type = "rankalloc_qwen2"


class RankallocGPT2Config(_Ranks, GPT2Config):
    model_type = "rankalloc_gpt2"


def _resize_llama(model: Any, config: Any) -> None:
    for index, layer in enumerate(model.model.layers):
        layer.self_attn = llama_attention(config, index, config.qk_ranks[index], config.ov_ranks[index])
        layer.mlp = llama_mlp(config, config.mlp_ranks[index])


class RankallocLlamaForCausalLM(LlamaForCausalLM):
    config_class = RankallocLlamaConfig
    _can_record_outputs = {"hidden_states": LlamaDecoderLayer, "attentions": MixedRankAttention}  # noqa: RUF012

    def __init__(self, config: RankallocLlamaConfig) -> None:
        super().__init__(config)
        _resize_llama(self, config)
        self.post_init()


class RankallocQwen2ForCausalLM(Qwen2ForCausalLM):
    config_class = RankallocQwen2Config
    _can_record_outputs = {"hidden_states": Qwen2DecoderLayer, "attentions": MixedRankAttention}  # noqa: RUF012

    def __init__(self, config: RankallocQwen2Config) -> None:
        super().__init__(config)
        _resize_llama(self, config)
        self.post_init()


class RankallocGPT2LMHeadModel(GPT2LMHeadModel):
    config_class = RankallocGPT2Config
    _can_record_outputs = {"hidden_states": GPT2Block, "attentions": MixedRankAttention}  # noqa: RUF012

    def __init__(self, config: RankallocGPT2Config) -> None:
        super().__init__(config)
        for index, block in enumerate(self.transformer.h):
            block.attn = gpt2_attention(config, index, config.qk_ranks[index], config.ov_ranks[index])
            block.mlp = gpt2_mlp(config, config.mlp_ranks[index])
        self.post_init()
