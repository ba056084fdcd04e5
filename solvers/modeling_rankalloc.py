"""Causal language models whose attention and MLP sizes differ from layer to layer.

This file travels inside every *compact* checkpoint that rankalloc writes, so it needs nothing but torch and transformers.
It changes inner sizes only: same matrix products, same residual stream, same softmax scale as the source model.

Sizes of layer l: ``config.qk_ranks[l]`` dimensions per query and key head, of which ``2 config.qk_pairs[l]`` are rotated,
``config.ov_ranks[l]`` per value head, ``config.mlp_ranks[l]`` intermediate neurons. Where ``config.ov_joint[l]``, one
latent for all heads is cached in place of values, ``ov_ranks[l]`` numbers for each of them. Where ``config.query_latents[l]``
is not 0, queries are made of so many numbers. Shape suffixes: B batch, T tokens, D hidden, H query heads, K key/value heads,
g = H / K, p kept rotary pairs, P the source's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

try:
    from transformers import (
        MODEL_MAPPING,
        Cache,
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GemmaConfig,
        GemmaForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        MptConfig,
        MptForCausalLM,
        OPTConfig,
        OPTForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        PreTrainedConfig,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )
except ImportError as error:  # of transformers 4, which has no PreTrainedConfig
    raise ImportError(
        "a compact checkpoint of rankalloc needs transformers 5: pip install -U 'transformers>=5'; the padded one loads in"
        f" older versions too ({error})"
    ) from None
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.mpt.modeling_mpt import MptBlock
from transformers.models.opt.modeling_opt import OPTDecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

_NOT_PASSED_ON = (
    *("past_key_values", "layer_past", "use_cache", "position_ids", "encoder_attention_mask"),
    *("dropout", "sliding_window"),
)
"""Arguments that attention functions do not get, or not as the module did."""

Tables = tuple[torch.Tensor, torch.Tensor]
"""cos and sin."""

_FEW_TOKENS = 16
"""Up to here all layers' kept frequencies are gathered at once; beyond, the copy would outweigh the calls it saves."""


# ---------------------------------------------------------------------------------------------------- rotary positions


class _Angles(tuple):
    """The source's cos and sin, with what all layers would otherwise make of them each for itself."""

    whole: Tables
    """``_signed`` of the source's tables: for layers that keep every pair."""
    kept: dict[int, Tables]
    """Layer -> the tables of its kept pairs, (B, K, T, 2p)."""


class _Select:
    """Hook on a model's rotary module: one gather per forward for all layers, instead of two per layer."""

    def __init__(self, attentions: Sequence[MixedRankAttention]) -> None:
        self.attentions = [attention for attention in attentions if attention.selects]
        self.sizes = [2 * attention.pairs.numel() for attention in self.attentions]
        self.spots: torch.Tensor | None = None

    def _places(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The place of every column's pair among all pairs of all layers' tables, and whether the column is a second half.

        Both halves of a head's tables are of the same pairs. Made late: models are built without data.
        """
        if self.spots is None or self.spots.device != device:
            spots, second, start = [], [], 0
            for attention in self.attentions:
                spot = (
                    torch.arange(attention.pairs.numel(), device=device).view(attention.pairs.shape) + start
                )
                spots.append(torch.cat((spot, spot), dim=1).flatten())
                second.append(torch.cat((spot * 0, spot * 0 + 1), dim=1).flatten())
                start += spot.numel()
            self.spots, self.second = torch.cat(spots), torch.cat(second)
        return self.spots, self.second

    def __call__(self, module: nn.Module, args: Any, output: Tables) -> Tables:
        angles = _Angles(output)
        cos, sin = _signed(output)
        angles.whole, angles.kept = (cos.unsqueeze(1), sin.unsqueeze(1)), {}
        batch, tokens, width = cos.shape
        if not self.attentions or batch * tokens > _FEW_TOKENS:
            return angles
        spots, second = self._places(cos.device)
        pairs = torch.cat([attention.pairs.view(-1) for attention in self.attentions]).long()
        index = pairs[spots] + second * (width // 2)
        tables = (table.index_select(-1, index).split(self.sizes, dim=-1) for table in (cos, sin))
        for attention, *parts in zip(self.attentions, *tables, strict=True):
            angles.kept[attention.layer_idx] = attention.by_head(parts[0]), attention.by_head(parts[1])
        return angles


def _one_table(module: nn.Module, args: Any, output: Tables) -> tuple[torch.Tensor]:
    """Hook on a model's rotary module in an engine: (B, T, 4, P), of every pair the cos twice, -sin and sin, of which a layer
    takes its pairs by one gather. A plain tuple, so that compilers follow.
    """
    return (torch.cat(_signed(output), dim=-1).unflatten(-1, (4, -1)),)


def _signed(tables: Tables) -> Tables:
    """cos and (-sin, sin): a rotation is then ``x cos + swap(x) sin`` where swap exchanges the halves."""
    cos, sin = tables
    first, second = sin.chunk(2, dim=-1)
    return cos, torch.cat((-first, second), dim=-1)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first 2p of (B, H, T, r) by (B, K or 1, T, 2p); dimension j < p is paired with j + p, the rest passes."""
    width, heads = cos.shape[-1], cos.shape[1]
    if width == 0:
        return states
    rotating = states if width == states.shape[-1] else states[..., :width]
    shape = rotating.shape
    if heads not in (1, shape[1]):
        if shape[2] == 1:  # the group takes the place of the one token
            rotating = rotating.reshape(shape[0], heads, -1, width)
        else:
            rotating, cos, sin = rotating.unflatten(1, (heads, -1)), cos.unsqueeze(2), sin.unsqueeze(2)
    rotated = (
        rotating.roll(width // 2, -1).mul_(sin).addcmul_(rotating, cos).reshape(shape)
    )  # one new tensor, not three
    return rotated if width == states.shape[-1] else torch.cat((rotated, states[..., width:]), dim=-1)


# ------------------------------------------------------------------------------------------------------------- modules


def _head_size(config: Any, layer: int, rank: int) -> int:
    """Dimensions per head in an engine's cache, of keys and values alike: ``rank`` unless the config tells."""
    differs = getattr(config, "is_heterogeneous", False)
    return getattr(config.per_layer_config[layer], "head_dim", rank) if differs else rank


def _eager_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, tokens = query.shape[:3]
    # A group's query heads are rows of one product with their common keys, which are never repeated.
    grouped = query.reshape(batch, module.kv_heads, -1, query.shape[-1])
    # Scores are far larger than queries and cost as much at every rank: as few passes over them as can be.
    scores = ((grouped * scaling) @ key.mT).view(batch, heads, tokens, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        same_dtype = attention_mask.dtype == scores.dtype
        scores = scores.add_(attention_mask) if same_dtype else scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = weights.view(batch, module.kv_heads, -1, weights.shape[-1]) @ value
    return output.view(batch, heads, tokens, -1).transpose(1, 2), weights


def _attend_one_token(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    joint: bool = False,
) -> torch.Tensor:
    """The output of SDPA for one query token (B, H, 1, r_qk) over (B, K, S, r) keys and values: (B, H r_ov).

    With ``joint`` every query head takes the values of all K heads, side by side: (B, H K r_ov).

    A group's query heads are rows of one problem with their common keys. For unequal sizes SDPA has no fused kernel: its plain
    products copy keys and values (bfloat16: 3 to 25 times slower than here on CPU), and padding copies the whole cache.
    """
    (batch, heads, _, width), kv_heads = query.shape, key.shape[1]
    grouped = query.reshape(batch, kv_heads, -1, width)
    if attention_mask is not None and attention_mask.shape[1] == heads:
        attention_mask = attention_mask.reshape(attention_mask.shape[0], kv_heads, heads // kv_heads, -1)
    if width == value.shape[-1] and not joint:
        output = nn.functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=scaling
        )
        return output.reshape(batch, -1)
    scores = (grouped * scaling) @ key.mT
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=exact).to(value.dtype)
    if joint:  # head by head: a product of all would copy the cache, or the weights for each
        flat = weights.reshape(batch, heads, -1)
        return torch.cat([flat @ head_values for head_values in value.unbind(1)], dim=-1).flatten(1)
    return (weights @ value).reshape(batch, -1)


class MixedRankAttention(nn.Module):
    """Causal attention with ``qk_rank`` dimensions for scores and ``ov_rank`` for values, per head.

    A query or key of rank r is [first halves of the p kept pairs | their second halves | r - 2p unrotated dimensions];
    ``pairs`` (K, p), ascending, says which of the source's ``rotary_pairs`` frequencies each key/value head kept.
    ``scaling`` is the source model's: the scores approximate the source's scores, not those of a smaller head.

    With ``joint`` values are ``latent @ v_up``: the latent, K r_ov numbers for all heads together, is what is projected to and
    cached, as K heads of r_ov. One token attends to it as it is, and the outcome is brought to the size of heads; many tokens
    attend to values that are made of it again, which is less work.
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
        rotary_pairs: int,
        qkv_bias: bool,
        o_bias: bool,
        qk_pairs: int | None = None,
        joint: bool = False,
        query_latent: int = 0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        norm: Callable[[], nn.Module] | None = None,
    ) -> None:
        """``norm`` makes the normalization of a whole query or key head; ``qk_pairs`` is qk_rank // 2 unless given;
        ``query_latent`` numbers are what ``q_proj`` reads in place of hidden states, unless it is 0.
        """
        super().__init__()
        self.pairs: Any
        self.config = config
        self.layer_idx = layer_idx
        self.heads, self.kv_heads = heads, kv_heads
        self.num_key_value_groups = heads // kv_heads
        self.source_head_dim, self.qk_rank, self.ov_rank = head_dim, qk_rank, ov_rank
        self.head_dim = qk_rank  # where engines look for the size of one head of q_proj
        self.head_size = _head_size(config, layer_idx, max(qk_rank, ov_rank))
        self.scaling = scaling
        self.is_causal = True
        self.sliding_window = sliding_window
        self.softcap = softcap
        self.attention_dropout = getattr(config, "attention_dropout", getattr(config, "attn_pdrop", 0.0))
        self.q_proj = nn.Linear(query_latent or hidden_size, heads * qk_rank, bias=qkv_bias)
        self.k_proj = nn.Linear(hidden_size, kv_heads * qk_rank, bias=qkv_bias)
        self.v_proj = nn.Linear(hidden_size, kv_heads * ov_rank, bias=qkv_bias)
        self.value_size = head_dim if joint else ov_rank
        self.o_proj = nn.Linear(heads * self.value_size, hidden_size, bias=o_bias)
        self.v_up: Any = None
        if joint:  # (K, K r_ov, h); no linear layer of its own, so that nobody quantizes or splits it as one
            self.v_up = nn.Parameter(torch.empty(kv_heads, kv_heads * ov_rank, head_dim))
            nn.init.normal_(self.v_up, std=0.02)
        self.q_norm: Any = None if norm is None else norm()
        self.k_norm: Any = None if norm is None else norm()
        self.rotary_pairs = rotary_pairs
        kept_pairs = (qk_rank // 2 if qk_pairs is None else qk_pairs) if rotary_pairs else 0
        # All pairs need no selection, none no rotation.
        self.selects, self.keeps_all = 0 < kept_pairs < rotary_pairs, kept_pairs == rotary_pairs
        if rotary_pairs:
            pairs = torch.arange(kept_pairs, dtype=torch.uint8).expand(kv_heads, -1).clone()
            self.register_buffer("pairs", pairs)
        else:
            self.pairs = None

    def by_head(self, table: torch.Tensor) -> torch.Tensor:
        """(B, T, K 2p) -> (B, K, T, 2p), a view."""
        heads, pairs = self.held_pairs().shape
        return table.view(*table.shape[:2], heads, 2 * pairs).transpose(1, 2)

    def held_pairs(self) -> torch.Tensor:
        """(K, p) of the key/value heads that are here: all, unless an engine split the matrices by heads."""
        parts, part = getattr(self.o_proj, "tp_size", 1), getattr(self.o_proj, "tp_rank", 0)
        return self.pairs if parts == 1 else self.pairs.chunk(parts)[part]

    def angles(self, position_embeddings: Tables) -> Tables:
        """This layer's cos and signed sin: (B, K, T, 2p), or (B, 1, T, 2P) where every pair is kept."""
        # Whoever moves arguments between devices may rebuild them as plain tuples.
        all_pairs, by_layer = (
            getattr(position_embeddings, "whole", None),
            getattr(position_embeddings, "kept", None),
        )
        if all_pairs is None:
            cos, sin = _signed(position_embeddings)
            all_pairs = cos.unsqueeze(1), sin.unsqueeze(1)
        if self.keeps_all:
            return all_pairs
        if by_layer and self.layer_idx in by_layer:
            return by_layer[self.layer_idx]
        pairs = self.held_pairs().long()
        index = torch.cat((pairs, pairs + self.rotary_pairs), dim=1).flatten()
        cos, sin = (self.by_head(table.squeeze(1).index_select(-1, index)) for table in all_pairs)
        return cos, sin

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, T, r_qk), keys (B, K, T, r_qk) and values (B, K, T, r_ov) before any norm or rotation."""
        return self.split(self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states))

    def split(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, H r) -> (B, H, T, r), of the heads that are here."""
        query = query.unflatten(-1, (-1, self.qk_rank)).transpose(1, 2)
        key = key.unflatten(-1, (-1, self.qk_rank)).transpose(1, 2)
        value = value.unflatten(-1, (-1, self.ov_rank)).transpose(1, 2)
        return query, key, value

    def rebuilt(self, latent: torch.Tensor) -> torch.Tensor:
        """Values (B, K, S, h) of a joint latent, which comes as K heads of its numbers (B, K, S, r_ov)."""
        ups = self.v_up.unflatten(1, (self.kv_heads, self.ov_rank))
        return torch.einsum("bjsr,kjrh->bksh", latent, ups)

    def normed(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalize every query and key head, where the source does."""
        return (query, key) if self.q_norm is None else (self.q_norm(query), self.k_norm(key))

    def rotated(
        self, query: torch.Tensor, key: torch.Tensor, position_embeddings: Tables | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply each head's own frequencies to query (B, H, T, r) and key (B, K, T, r)."""
        if self.pairs is None:
            return query, key
        assert position_embeddings is not None
        cos, sin = self.angles(position_embeddings)
        return _rotate(query, cos, sin), _rotate(key, cos, sin)

    def in_engine(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        table: tuple[torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From what ``q_proj``, ``k_proj`` and ``v_proj`` gave, (B, T, H r): rotated heads of the one size that an engine's
        cache has for this layer, (B, H, T, head_size). Zero columns change nothing.

        They are views of (B, T, H, head_size), which is what an engine makes of them again, and rotated where they are: with
        the few tokens of a step every call costs more than its numbers.
        """
        size, pair_count = self.head_size, 0 if self.pairs is None else self.pairs.shape[1]
        query, key = (states.unflatten(-1, (-1, self.qk_rank)) for states in (query, key))
        value = value.unflatten(-1, (-1, self.ov_rank))
        query, key = self.normed(query, key)
        if self.qk_rank < size:
            query, key = (nn.functional.pad(states, (0, size - self.qk_rank)) for states in (query, key))
        if self.ov_rank < size:
            value = nn.functional.pad(value, (0, size - self.ov_rank))
        if pair_count:
            assert table is not None
            columns = table[0]
            shape = (*columns.shape[:2], key.shape[2], -1, 2, pair_count)
            if not self.keeps_all:
                # ``index_select`` takes them five times as slowly on a CPU. The pairs are not kept as an index: engines trace
                # and warm up models before they load them.
                columns = columns.gather(-1, self.held_pairs().long().view(-1).expand(*columns.shape[:3], -1))
            # (B, T, K or 1, 1, 2, p)
            cos, sin = (
                columns.view(*shape[:2], 2, 2, -1, 1, pair_count).permute(2, 0, 1, 4, 5, 3, 6).unbind(0)
            )
            for states in (query, key):
                rotated = states[..., : 2 * pair_count]
                swapped = rotated.roll(pair_count, -1).view(shape)
                rotated.view(shape).mul_(cos).addcmul_(swapped, sin)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_key_values: Any | None = None,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: Any | None = None,
        position_bias: torch.Tensor | None = None,
        layer_past: Any | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The cache comes by the name that this version of transformers has for it: ``past_key_values`` before 5.24, then
        ``cache``, ``layer_past`` in GPT-NeoX and MPT. With ``position_bias`` (H, 1, S) True in the mask means masked.
        """
        # ``project``, written out: an engine rewrites these calls here into one product.
        query, key, value = (
            self.q_proj(hidden_states),
            self.k_proj(hidden_states),
            self.v_proj(hidden_states),
        )
        given = {"past_key_values": past_key_values, "layer_past": layer_past, **kwargs}
        states, kwargs = self.prepared(
            query, key, value, attention_mask, position_embeddings, position_bias, given
        )
        if not states:
            return kwargs["output"], None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _eager_attention)
        output, weights = attend(self, *states, scaling=self.scaling, **kwargs)
        return self.finished(output, states[2].shape[-1], hidden_states.shape[:-1]), weights

    def prepared(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_embeddings: Any | None,
        position_bias: torch.Tensor | None,
        given: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of attention, made of what the projections put out, (B, T, H r).

        Args:
            given: all else that ``forward`` was called with.

        Returns:
            query, key, value and mask, and keyword arguments; where one token has been attended to here, nothing, and the
            module's ``output``.
        """
        implementation = self.config._attn_implementation
        dropout = self.attention_dropout if self.training else 0.0
        if implementation == "vllm":
            query, key, value = self.in_engine(query, key, value, position_embeddings)
        else:
            query, key, value = self.split(query, key, value)
            query, key = self.rotated(*self.normed(query, key), position_embeddings)
        cache = next((value for value in given.values() if isinstance(value, Cache)), None)
        kwargs = {
            name: value
            for name, value in given.items()
            if name not in _NOT_PASSED_ON and not isinstance(value, Cache)
        }
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if position_bias is not None:
            assert attention_mask is not None
            # In the biases' own float32: rounded to half precision, distant positions would be told apart no more.
            bias = position_bias[None, ..., -key.shape[2] :]
            attention_mask = bias.masked_fill(attention_mask, torch.finfo(bias.dtype).min)
        plain = dropout == 0 and self.softcap is None and kwargs.get("cache") is None
        joint = self.v_up is not None
        if joint and value.shape[1] != self.kv_heads:
            raise ValueError("joint values of all heads are not split by heads: no tensor parallelism")
        if implementation == "sdpa" and plain and query.shape[2] == 1:
            output = _attend_one_token(query, key, value, attention_mask, self.scaling, joint)
            if joint:
                rows = output.view(len(output), self.kv_heads, -1, self.v_up.shape[1])
                output = (rows.transpose(0, 1).flatten(1, 2) @ self.v_up).unflatten(1, rows.shape[:3:2])
                output = output.transpose(0, 1).flatten(1)
            return (), {"output": self.o_proj(output.unsqueeze(1))}
        if joint:
            value = self.rebuilt(value)
        # Fast kernels want equal sizes; zero columns change nothing. The cache holds the unpadded tensors.
        if implementation not in ("eager", "vllm"):
            width = max(self.qk_rank, self.value_size)
            query, key, value = (
                nn.functional.pad(states, (0, width - states.shape[-1]))
                if states.shape[-1] < width
                else states
                for states in (query, key, value)
            )
        if self.softcap is not None:
            kwargs["softcap"] = self.softcap
        kwargs |= {"dropout": dropout, "sliding_window": self.sliding_window}
        return (query, key, value, attention_mask), kwargs

    def finished(self, output: torch.Tensor, width: int, shape: Sequence[int]) -> torch.Tensor:
        """The module's output, of what attention put out for values of ``width``: (B, T, H, width) from transformers,
        (T, H width) from an engine; ``shape`` is (B, T).
        """
        if width > self.value_size:
            output = output.reshape(*shape, -1, width)[..., : self.value_size]
        # One dimension of each head is a view with gaps, which not every engine's product takes.
        return self.o_proj(output.reshape(*shape, -1).contiguous())


class LatentQueryAttention(MixedRankAttention):
    """The one whose queries are made of a latent of ``query_latent`` numbers.

    A class of its own, since an engine rewrites a class's products as it finds them in its first module, and queries are not
    one product with keys and values here.
    """

    def __init__(self, config: Any, layer_idx: int, *, hidden_size: int, **options: Any) -> None:
        super().__init__(config, layer_idx, hidden_size=hidden_size, **options)
        self.q_down = nn.Linear(hidden_size, options["query_latent"], bias=False)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As in ``MixedRankAttention``."""
        query = self.q_proj(self.q_down(hidden_states))
        return self.split(query, self.k_proj(hidden_states), self.v_proj(hidden_states))

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_key_values: Any | None = None,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: Any | None = None,
        position_bias: torch.Tensor | None = None,
        layer_past: Any | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As in ``MixedRankAttention``."""
        query, key, value = (
            self.q_proj(self.q_down(hidden_states)),
            self.k_proj(hidden_states),
            self.v_proj(hidden_states),
        )
        given = {"past_key_values": past_key_values, "layer_past": layer_past, **kwargs}
        states, kwargs = self.prepared(
            query, key, value, attention_mask, position_embeddings, position_bias, given
        )
        if not states:
            return kwargs["output"], None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, _eager_attention)
        output, weights = attend(self, *states, scaling=self.scaling, **kwargs)
        return self.finished(output, states[2].shape[-1], hidden_states.shape[:-1]), weights


class MixedRankMLP(nn.Module):
    """``down(act(gate x) * up x)``, or ``down(act(up x))`` where the source has no gate; ``rank`` neurons inside."""

    def __init__(
        self, *, hidden_size: int, rank: int, activation: str, gated: bool, inner_bias: bool, down_bias: bool
    ) -> None:
        super().__init__()
        self.gate_proj: Any = nn.Linear(hidden_size, rank, bias=inner_bias) if gated else None
        self.up_proj = nn.Linear(hidden_size, rank, bias=inner_bias)
        self.down_proj = nn.Linear(rank, hidden_size, bias=down_bias)
        self.act_fn = ACT2FN[activation]

    def inner(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The input of ``down_proj``: (B, T, rank)."""
        up = self.up_proj(hidden_states)
        return self.act_fn(up) if self.gate_proj is None else self.act_fn(self.gate_proj(hidden_states)) * up

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.inner(hidden_states))


class MixedRankGatedMLP(MixedRankMLP):
    """The gated one, with its products where an engine can rewrite them into one."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class MixedRankOPTLayer(OPTDecoderLayer):
    """OPT's layer with its MLP in a module of its own."""

    replaced: ClassVar[tuple[str, ...]] = ("fc1", "fc2")

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        norm_first = self.do_layer_norm_before

        def block(
            states: torch.Tensor, norm: nn.Module, inner: Callable[[torch.Tensor], torch.Tensor]
        ) -> torch.Tensor:
            output = inner(norm(states) if norm_first else states)
            states = states + nn.functional.dropout(output, p=self.dropout, training=self.training)
            return states if norm_first else norm(states)

        hidden_states = block(
            hidden_states, self.self_attn_layer_norm, lambda states: self.self_attn(states, **kwargs)[0]
        )
        return block(hidden_states, self.final_layer_norm, self.mlp)


class MixedRankMptBlock(MptBlock):
    """MPT's block with the residual outside the MLP. ``bare`` asks for the hidden states alone."""

    replaced: ClassVar[tuple[str, ...]] = ("ffn",)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        attention_mask: torch.Tensor,
        layer_past: Any | None = None,
        bare: bool = False,
        **kwargs: Any,
    ) -> Any:
        attended, weights = self.attn(
            self.norm_1(hidden_states),
            position_bias=position_bias,
            attention_mask=attention_mask,
            past_key_values=layer_past,
        )
        hidden_states = self.resid_attn_dropout(attended) + hidden_states
        output = self.mlp(self.norm_2(hidden_states))
        hidden_states = hidden_states + nn.functional.dropout(
            output, p=self.dropout_rate, training=self.training
        )
        return hidden_states if bare else (hidden_states, weights)


# ------------------------------------------------------------------------------------------------------------ families


def source_type(config: Any) -> str:
    """The family of a source's or a compact checkpoint's config."""
    return config.model_type.removeprefix("rankalloc_")


WINDOW_EVERYWHERE = ("mistral", "mixtral", "phi3")
WINDOW_BY_LAYER = ("qwen2", "qwen3", "gemma2", "gemma3_text")
_NORMS = {"qwen3": Qwen3RMSNorm, "gemma3_text": Gemma3RMSNorm}


def _llama_attention(config: Any, layer: int) -> dict[str, Any]:
    """Llama and all that follow its naming; they differ in biases, windows, norms and scales."""
    kind, heads = source_type(config), config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    biased = kind in ("llama", "qwen3", "gemma", "gemma2", "gemma3_text") and bool(config.attention_bias)
    slides = kind in WINDOW_EVERYWHERE or (
        kind in WINDOW_BY_LAYER and config.layer_types[layer] == "sliding_attention"
    )
    share = config.rope_parameters.get("partial_rotary_factor", 1.0) if kind == "phi3" else 1.0
    return {
        "hidden_size": config.hidden_size,
        "heads": heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "scaling": (config.query_pre_attn_scalar if kind in ("gemma2", "gemma3_text") else head_dim) ** -0.5,
        "rotary_pairs": int(head_dim * share) // 2,
        "qkv_bias": biased or kind == "qwen2",
        "o_bias": biased,
        "sliding_window": config.sliding_window if slides else None,
        "softcap": config.attn_logit_softcapping if kind == "gemma2" else None,
        "norm": (lambda: _NORMS[kind](head_dim, eps=config.rms_norm_eps)) if kind in _NORMS else None,
    }


def gated_mlp(config: Any) -> dict[str, Any]:
    kind = source_type(config)
    bias = kind == "llama" and bool(config.mlp_bias)
    return {
        "hidden_size": config.hidden_size,
        "rank": config.intermediate_size,
        "activation": config.hidden_activation if kind in ("gemma2", "gemma3_text") else config.hidden_act,
        "gated": True,
        "inner_bias": bias,
        "down_bias": bias,
    }


def _equal_heads(config: Any, *, bias: bool, rotary_pairs: int = 0) -> dict[str, Any]:
    """Heads of hidden / H dimensions, as many keys as queries."""
    heads = config.num_attention_heads
    return {
        "hidden_size": config.hidden_size,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": config.hidden_size // heads,
        "scaling": (config.hidden_size // heads) ** -0.5,
        "rotary_pairs": rotary_pairs,
        "qkv_bias": bias,
        "o_bias": bias,
    }


def _gpt2_attention(config: Any, layer: int) -> dict[str, Any]:
    options = _equal_heads(config, bias=True)
    scaling = options["scaling"] if config.scale_attn_weights else 1.0
    return options | {"scaling": scaling / (layer + 1 if config.scale_attn_by_inverse_layer_idx else 1)}


def _gpt_neox_attention(config: Any, layer: int) -> dict[str, Any]:
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    pairs = int(config.hidden_size // config.num_attention_heads * share) // 2
    return _equal_heads(config, bias=config.attention_bias, rotary_pairs=pairs)


def _opt_attention(config: Any, layer: int) -> dict[str, Any]:
    return _equal_heads(config, bias=config.enable_bias)


def _mpt_attention(config: Any, layer: int) -> dict[str, Any]:
    options = _equal_heads(config, bias=False)
    return options | {"scaling": config.attn_config.softmax_scale or options["scaling"]}


def _plain_mlp(config: Any, rank: int, activation: str, *, bias: bool = True) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "rank": rank,
        "activation": activation,
        "gated": False,
        "inner_bias": bias,
        "down_bias": bias,
    }


@dataclass(frozen=True)
class Architecture:
    """The place of a family's layers, and the parts of its attention and MLP at full rank.

    ``mlp`` is None where the MLP is left as it is. ``layer_class`` replaces layers that have no module for the MLP.
    """

    attention: Callable[[Any, int], dict[str, Any]] = _llama_attention
    mlp: Callable[[Any], dict[str, Any]] | None = gated_mlp
    base: str = "model"
    layers: str = "model.layers"
    attention_name: str = "self_attn"
    layer_class: Any = None
    biased_by_position: bool = False
    """Whether scores take a bias by position. It travels in the mask, which an engine makes itself."""

    def part(self, model: Any, path: str) -> Any:
        """A module by its path from the language model, whose first name a bare model has not."""
        first, _, rest = path.partition(".")
        return model.get_submodule(path if hasattr(model, first) else rest)

    def layers_of(self, model: Any) -> Any:
        return self.part(model, self.layers)

    def place(self, layer: Any, attention: MixedRankAttention, mlp: MixedRankMLP | None) -> None:
        """Put modules into a layer, stock or ours."""
        setattr(layer, self.attention_name, attention)
        if mlp is None:
            return
        if self.layer_class is not None and not isinstance(layer, self.layer_class):
            layer.__class__ = self.layer_class
            for name in self.layer_class.replaced:
                delattr(layer, name)
        layer.mlp = mlp

    def make_attention(
        self,
        config: Any,
        layer: int,
        *,
        qk: int,
        ov: int,
        pairs: int | None,
        joint: bool = False,
        query_latent: int = 0,
    ) -> MixedRankAttention:
        sizes: dict[str, Any] = {"qk_rank": qk, "ov_rank": ov, "qk_pairs": pairs}
        options = self.attention(config, layer)
        attention_class = LatentQueryAttention if query_latent else MixedRankAttention
        return attention_class(config, layer, joint=joint, query_latent=query_latent, **sizes, **options)

    def make_mlp(self, config: Any, rank: int) -> MixedRankMLP | None:
        if self.mlp is None:
            return None
        options = self.mlp(config) | {"rank": rank}
        return (MixedRankGatedMLP if options["gated"] else MixedRankMLP)(**options)

    def split_by_heads(self, stock: dict[str, str] | None) -> dict[str, str]:
        """Tensor parallelism: path from the bare model, ``*`` for any layer -> how a module is split, in transformers' words.

        ``stock`` says so of the stock class, whose norms, experts and embeddings are ours too.
        """
        layer = f"{self.layers.partition('.')[2]}.*"
        plan = {
            name: split
            for name, split in (stock or {}).items()
            if any(x in name for x in ("norm", "experts", "embed"))
        }
        plan |= {f"{layer}.{self.attention_name}.{name}_proj": "colwise" for name in "qkv"}
        plan |= {f"{layer}.{self.attention_name}.o_proj": "rowwise"}
        if self.mlp is not None:
            plan |= {f"{layer}.mlp.{name}_proj": "colwise" for name in ("gate", "up")}
            plan |= {f"{layer}.mlp.down_proj": "rowwise"}
        return plan

    def resize(self, model: Any, config: Any) -> None:
        """Give every layer of a stock model the sizes that ``config`` names.

        Raises:
            ValueError: the model is an engine's, and its scores need more than that passes on, or its cache holds no latents.
        """
        if self.biased_by_position and config._attn_implementation == "vllm":
            raise ValueError(
                f"{source_type(config)}: its ALiBi biases do not reach vLLM's attention; serve it with transformers"
            )
        if any(config.ov_joint) and config._attn_implementation == "vllm":
            raise ValueError("joint values of all heads do not fit vLLM's cache; serve it with transformers")
        attentions = []
        for index, layer in enumerate(self.layers_of(model)):
            attention = self.make_attention(
                config,
                index,
                qk=config.qk_ranks[index],
                ov=config.ov_ranks[index],
                pairs=config.qk_pairs[index] if config.qk_pairs else None,
                joint=bool(config.ov_joint and config.ov_joint[index]),
                query_latent=config.query_latents[index] if config.query_latents else 0,
            )
            self.place(layer, attention, self.make_mlp(config, config.mlp_ranks[index]))
            attentions.append(attention)
        if attentions[0].rotary_pairs:
            hook = _one_table if config._attn_implementation == "vllm" else _Select(attentions)
            self.part(model, f"{self.base}.rotary_emb").register_forward_hook(hook)


ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"), Architecture()
    ),
    "mixtral": Architecture(mlp=None),
    "gpt_neox": Architecture(
        attention=_gpt_neox_attention,
        mlp=lambda config: _plain_mlp(config, config.intermediate_size, config.hidden_act),
        base="gpt_neox",
        layers="gpt_neox.layers",
        attention_name="attention",
    ),
    "gpt2": Architecture(
        attention=_gpt2_attention,
        mlp=lambda config: _plain_mlp(
            config, config.n_inner or 4 * config.hidden_size, config.activation_function
        ),
        base="transformer",
        layers="transformer.h",
        attention_name="attn",
    ),
    "opt": Architecture(
        attention=_opt_attention,
        mlp=lambda config: _plain_mlp(
            config, config.ffn_dim, config.activation_function, bias=config.enable_bias
        ),
        base="model.decoder",
        layers="model.decoder.layers",
        layer_class=MixedRankOPTLayer,
    ),
    "mpt": Architecture(
        attention=_mpt_attention,
        mlp=lambda config: _plain_mlp(config, 4 * config.hidden_size, "gelu", bias=False),
        base="transformer",
        layers="transformer.blocks",
        attention_name="attn",
        layer_class=MixedRankMptBlock,
        biased_by_position=True,
    ),
}
"""Source ``model_type`` -> architecture. A compact checkpoint's type carries ``COMPACT_PREFIX``."""


_stock_layers: Any = getattr(getattr(PreTrainedConfig, "per_layer_config", None), "fget", None)
"""Config -> its layers' configs, as transformers >= 5.16 makes them. By itself, since compilers do not follow a property of
``super()``."""


class _ByLayer(Sequence):
    """Layer -> its config. By a kind of attention the whole config: that is how rotary positions, the source's, are made."""

    def __init__(self, config: Any, layers: Sequence) -> None:
        self.config, self.layers = config, layers

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: Any) -> Any:
        return self.config if isinstance(layer, str) else self.layers[layer]


@dataclass(kw_only=True, repr=False)
class _Ranks:
    """Mixed into a stock config: the sizes of every layer. Without ``qk_pairs`` half of each QK rank is pairs.

    ``per_layer_config`` may say the ``head_dim`` of every layer: the size that an engine's cache gives keys and values.
    ``head_dim`` of the config itself stays the source's, of which rotary positions are made.

    ``ov_joint``, where some layer has a joint latent of values: whether each has. ``query_latents``, where queries of some
    layer are made of a latent: how many numbers it has, 0 where there is none.

    ``*_bits``, where a plan gave some: the bits (8, 4 or None) that a layer's weights are to be held in. They are stored in
    the checkpoint's own type; who loads them quantized reads it here.
    """

    qk_ranks: list = field(default_factory=list)
    ov_ranks: list = field(default_factory=list)
    mlp_ranks: list = field(default_factory=list)
    qk_pairs: list = field(default_factory=list)
    ov_joint: list = field(default_factory=list)
    query_latents: list = field(default_factory=list)
    qk_bits: list = field(default_factory=list)
    ov_bits: list = field(default_factory=list)
    mlp_bits: list = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        _tell_peft()  # which asks for this before it looks up the family's modules
        return super().to_dict()  # type: ignore[misc]

    def __getattribute__(self, key: str) -> Any:
        # transformers refuses what differs by layer on the whole config; here the two are different things.
        return object.__getattribute__(self, key) if key == "head_dim" else super().__getattribute__(key)

    @property
    def per_layer_config(self) -> Any:
        return _ByLayer(self, _stock_layers(self))

    @per_layer_config.setter
    def per_layer_config(self, value: Any) -> None:
        stock: Any = getattr(super(_Ranks, type(self)), "per_layer_config", None)
        if stock is not None:  # transformers >= 5.16
            stock.fset(self, value)


COMPACT_PREFIX = "rankalloc_"
COMPACT: dict[str, tuple[Any, Any]] = {}
"""Source ``model_type`` -> config and model class of its compact checkpoints."""
BARE: dict[str, Any] = {}
"""Source ``model_type`` -> the class without a language model's head, which engines put a head of their own on."""


_FUSED = ("c_attn", "query_key_value", "Wqkv", "qkv_proj")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _tell_peft() -> None:
    """Give compact models the modules that peft adapts of their source's family by default, where somebody imported peft."""
    constants = sys.modules.get("peft.utils.constants")
    for name, modules in list(vars(constants).items()) if constants else ():
        if not (name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(modules, dict)):
            continue
        for source in COMPACT.keys() & modules.keys():
            own = [
                projection
                for module in modules[source]
                for projection in (_PROJECTIONS[:3] if module in _FUSED else (module,))
            ]
            if set(own) <= set(_PROJECTIONS):  # else it is told by hand, as for any new family
                modules.setdefault(COMPACT_PREFIX + source, own)


def _compact(config_class: Any, model_class: Any) -> tuple[Any, Any, Any]:
    """The mixed-rank config of a family, its language model and its bare model; ``auto_map`` finds them by their names in this
    module.
    """
    architecture = ARCHITECTURES[config_class.model_type]
    config: Any = type(
        f"Rankalloc{config_class.__name__}",
        (_Ranks, config_class),
        {
            "__module__": __name__,
            "model_type": COMPACT_PREFIX + config_class.model_type,
            "base_model_tp_plan": architecture.split_by_heads(config_class.base_model_tp_plan),
        },
    )

    def resized(stock: Any) -> Any:
        def initialize(self: Any, config: Any) -> None:
            stock.__init__(self, config)
            architecture.resize(self, config)
            self.post_init()

        initialize.__annotations__ = {}  # vLLM holds arguments against them as if they were types, not names of types
        inner = {
            "__module__": __name__,
            "__init__": initialize,
            "config_class": config,
            # Keys and values have sizes of their own in every layer: a static cache learns them from the first that it holds.
            "_get_static_cache_init_shape": lambda self: None,
        }
        return type(f"Rankalloc{stock.__name__}", (stock,), inner)

    model, bare = resized(model_class), resized(MODEL_MAPPING[config_class])
    COMPACT[config_class.model_type] = (config, model)
    BARE[config_class.model_type] = bare
    return config, model, bare


RankallocLlamaConfig, RankallocLlamaForCausalLM, RankallocLlamaModel = _compact(LlamaConfig, LlamaForCausalLM)
RankallocMistralConfig, RankallocMistralForCausalLM, RankallocMistralModel = _compact(
    MistralConfig, MistralForCausalLM
)
RankallocQwen2Config, RankallocQwen2ForCausalLM, RankallocQwen2Model = _compact(Qwen2Config, Qwen2ForCausalLM)
RankallocQwen3Config, RankallocQwen3ForCausalLM, RankallocQwen3Model = _compact(Qwen3Config, Qwen3ForCausalLM)
RankallocGemmaConfig, RankallocGemmaForCausalLM, RankallocGemmaModel = _compact(GemmaConfig, GemmaForCausalLM)
RankallocGemma2Config, RankallocGemma2ForCausalLM, RankallocGemma2Model = _compact(
    Gemma2Config, Gemma2ForCausalLM
)
RankallocGemma3TextConfig, RankallocGemma3ForCausalLM, RankallocGemma3TextModel = _compact(
    Gemma3TextConfig, Gemma3ForCausalLM
)
RankallocPhi3Config, RankallocPhi3ForCausalLM, RankallocPhi3Model = _compact(Phi3Config, Phi3ForCausalLM)
RankallocMixtralConfig, RankallocMixtralForCausalLM, RankallocMixtralModel = _compact(
    MixtralConfig, MixtralForCausalLM
)
RankallocGPTNeoXConfig, RankallocGPTNeoXForCausalLM, RankallocGPTNeoXModel = _compact(
    GPTNeoXConfig, GPTNeoXForCausalLM
)
RankallocGPT2Config, RankallocGPT2LMHeadModel, RankallocGPT2Model = _compact(GPT2Config, GPT2LMHeadModel)
RankallocOPTConfig, RankallocOPTForCausalLM, RankallocOPTModel = _compact(OPTConfig, OPTForCausalLM)
RankallocMptConfig, RankallocMptForCausalLM, RankallocMptModel = _compact(MptConfig, MptForCausalLM)
