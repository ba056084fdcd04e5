"""One adapter per model family: where its layers are, how its weights read, how to run it in pieces.

To add a family: write an adapter below, its mixed-rank classes in ``modeling_rankalloc.py``, and add both to the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from solvers import modeling_rankalloc as modeling
from solvers.weights import LayerWeights

Call = dict[str, Any]


def _split(linear: nn.Linear, heads: int) -> torch.Tensor:
    """An output projection's weight as (D, heads, r)."""
    return linear.weight.detach().T.reshape(linear.in_features, heads, -1)


def _split_bias(bias: torch.Tensor | None, heads: int) -> torch.Tensor | None:
    return None if bias is None else bias.detach().reshape(heads, -1)


def _detached(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.detach()


class LlamaFamily:
    """Llama, and Qwen2 which differs by biases on q, k, v and optional sliding windows."""

    attention_name = "self_attn"
    direct_residual = True
    compact: ClassVar[dict[str, tuple[type, type]]] = {
        "llama": (modeling.RankallocLlamaConfig, modeling.RankallocLlamaForCausalLM),
        "qwen2": (modeling.RankallocQwen2Config, modeling.RankallocQwen2ForCausalLM),
    }

    def geometry(self, config: Any) -> dict[str, Any]:
        qwen = config.model_type.endswith("qwen2")
        return {
            "hidden": config.hidden_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "intermediate": config.intermediate_size,
            "mlp_matrices": 3,
            "qk_step": 2,
            "biases": {
                "qk": qwen or bool(config.attention_bias),
                "ov": qwen or bool(config.attention_bias),
                "mlp": bool(getattr(config, "mlp_bias", False)),
            },
        }

    def layers(self, model: Any) -> nn.ModuleList:
        return model.model.layers

    def attention(self, config: Any, index: int, qk_rank: int, ov_rank: int) -> modeling.MixedRankAttention:
        return modeling.llama_attention(config, index, qk_rank, ov_rank)

    def mlp(self, config: Any, rank: int) -> modeling.MixedRankMLP:
        return modeling.llama_mlp(config, rank)

    def read_layer(self, config: Any, layer: Any) -> LayerWeights:
        attention, mlp = layer.self_attn, layer.mlp
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        rank = attention.q_proj.out_features // heads
        return LayerWeights(
            q_DHr=_split(attention.q_proj, heads),
            k_DKr=_split(attention.k_proj, kv_heads),
            v_DKr=_split(attention.v_proj, kv_heads),
            o_HrD=attention.o_proj.weight.detach().T.reshape(heads, -1, config.hidden_size),
            q_bias_Hr=_split_bias(attention.q_proj.bias, heads),
            k_bias_Kr=_split_bias(attention.k_proj.bias, kv_heads),
            v_bias_Kr=_split_bias(attention.v_proj.bias, kv_heads),
            o_bias_D=_detached(attention.o_proj.bias),
            gate_Dm=mlp.gate_proj.weight.detach().T,
            up_Dm=mlp.up_proj.weight.detach().T,
            down_mD=mlp.down_proj.weight.detach().T,
            gate_bias_m=_detached(mlp.gate_proj.bias),
            up_bias_m=_detached(mlp.up_proj.bias),
            down_bias_D=_detached(mlp.down_proj.bias),
            pairs=torch.arange(rank // 2).expand(kv_heads, -1),
        )

    def write_stock_layer(self, layer: Any, padded: LayerWeights) -> None:
        """Copy zero-padded weights of the source's own sizes into a stock layer."""
        write_linears(layer.self_attn, layer.mlp, padded)

    def embed(self, model: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Hidden states before layer 0 and each layer's keyword arguments, for (B, T) token ids without padding."""
        inner = model.model
        hidden = inner.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1], device=hidden.device).unsqueeze(0)
        options = {
            "config": inner.config,
            "inputs_embeds": hidden,
            "attention_mask": None,
            "past_key_values": None,
            "position_ids": positions,
        }
        kinds = getattr(inner.config, "layer_types", None) or ["full_attention"] * len(inner.layers)
        make: dict[str, Callable[..., Any]] = {
            "full_attention": create_causal_mask,
            "sliding_attention": create_sliding_window_causal_mask,
        }
        masks = {kind: make[kind](**options) for kind in set(kinds)}
        rotary = inner.rotary_emb(hidden, position_ids=positions)
        return hidden, [
            {"attention_mask": masks[kind], "position_embeddings": rotary, "position_ids": positions}
            for kind in kinds
        ]

    def logits(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        return model.lm_head(model.model.norm(hidden))


class GPT2Family:
    """GPT-2: fused qkv in Conv1D (weights stored input x output), learned positions, biases, a plain MLP."""

    attention_name = "attn"
    direct_residual = True
    compact: ClassVar[dict[str, tuple[type, type]]] = {
        "gpt2": (modeling.RankallocGPT2Config, modeling.RankallocGPT2LMHeadModel),
    }

    def geometry(self, config: Any) -> dict[str, Any]:
        return {
            "hidden": config.hidden_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_attention_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
            "intermediate": config.n_inner or 4 * config.hidden_size,
            "mlp_matrices": 2,
            "qk_step": 1,
            "biases": {"qk": True, "ov": True, "mlp": True},
        }

    def layers(self, model: Any) -> nn.ModuleList:
        return model.transformer.h

    def attention(self, config: Any, index: int, qk_rank: int, ov_rank: int) -> modeling.MixedRankAttention:
        return modeling.gpt2_attention(config, index, qk_rank, ov_rank)

    def mlp(self, config: Any, rank: int) -> modeling.MixedRankMLP:
        return modeling.gpt2_mlp(config, rank)

    def read_layer(self, config: Any, layer: Any) -> LayerWeights:
        attention, mlp = layer.attn, layer.mlp
        heads, size = config.num_attention_heads, config.hidden_size
        weights = attention.c_attn.weight.detach().reshape(size, 3, heads, -1).unbind(1)
        biases = attention.c_attn.bias.detach().reshape(3, heads, -1).unbind(0)
        return LayerWeights(
            q_DHr=weights[0],
            k_DKr=weights[1],
            v_DKr=weights[2],
            q_bias_Hr=biases[0],
            k_bias_Kr=biases[1],
            v_bias_Kr=biases[2],
            o_HrD=attention.c_proj.weight.detach().reshape(heads, -1, size),
            o_bias_D=attention.c_proj.bias.detach(),
            up_Dm=mlp.c_fc.weight.detach(),
            up_bias_m=mlp.c_fc.bias.detach(),
            down_mD=mlp.c_proj.weight.detach(),
            down_bias_D=mlp.c_proj.bias.detach(),
        )

    def write_stock_layer(self, layer: Any, padded: LayerWeights) -> None:
        """Copy zero-padded weights of the source's own sizes into a stock layer."""
        attention, mlp, size = layer.attn, layer.mlp, padded.q_DHr.shape[0]
        qkv = (padded.q_DHr, padded.k_DKr, padded.v_DKr)
        biases = (padded.q_bias_Hr, padded.k_bias_Kr, padded.v_bias_Kr)
        attention.c_attn.weight.data.copy_(torch.cat([part.reshape(size, -1) for part in qkv], dim=1))
        attention.c_attn.bias.data.copy_(torch.cat([part.reshape(-1) for part in biases if part is not None]))
        attention.c_proj.weight.data.copy_(padded.o_HrD.reshape(-1, size))
        attention.c_proj.bias.data.copy_(padded.o_bias_D)
        mlp.c_fc.weight.data.copy_(padded.up_Dm)
        mlp.c_fc.bias.data.copy_(padded.up_bias_m)
        mlp.c_proj.weight.data.copy_(padded.down_mD)
        mlp.c_proj.bias.data.copy_(padded.down_bias_D)

    def embed(self, model: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Hidden states before layer 0 and each layer's keyword arguments, for (B, T) token ids without padding."""
        inner = model.transformer
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        hidden = inner.wte(input_ids) + inner.wpe(positions)
        mask = create_causal_mask(
            config=inner.config,
            inputs_embeds=hidden,
            attention_mask=None,
            past_key_values=None,
            position_ids=positions,
        )
        return hidden, [{"attention_mask": mask} for _ in inner.h]

    def logits(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        return model.lm_head(model.transformer.ln_f(hidden))


Family = LlamaFamily | GPT2Family

FAMILIES: dict[str, Family] = {"llama": LlamaFamily(), "qwen2": LlamaFamily(), "gpt2": GPT2Family()}
"""Source ``model_type`` -> adapter. Our own compact checkpoints carry the prefix ``rankalloc_``."""


def write_linears(attention: Any, mlp: Any, weights: LayerWeights) -> None:
    """Copy one layer's weights into modules that hold them as separate ``nn.Linear`` (ours, and stock Llama)."""

    def copy(linear: nn.Linear, matrix: torch.Tensor, bias: torch.Tensor | None) -> None:
        linear.weight.data.copy_(matrix.T)
        if linear.bias is not None:
            assert bias is not None
            linear.bias.data.copy_(bias.reshape(-1))

    copy(attention.q_proj, weights.q_DHr.flatten(1), weights.q_bias_Hr)
    copy(attention.k_proj, weights.k_DKr.flatten(1), weights.k_bias_Kr)
    copy(attention.v_proj, weights.v_DKr.flatten(1), weights.v_bias_Kr)
    copy(attention.o_proj, weights.o_HrD.flatten(0, 1), weights.o_bias_D)
    if mlp.gate_proj is not None:
        assert weights.gate_Dm is not None
        copy(mlp.gate_proj, weights.gate_Dm, weights.gate_bias_m)
    copy(mlp.up_proj, weights.up_Dm, weights.up_bias_m)
    copy(mlp.down_proj, weights.down_mD, weights.down_bias_D)
