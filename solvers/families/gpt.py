"""GPT-2 and GPT-NeoX: q, k and v in one matrix, MLPs without a gate, biases."""

from __future__ import annotations

from typing import Any, ClassVar

from solvers.families.base import Family
from solvers.families.views import heads_in, plain_mlp
from solvers.weights import LayerWeights


class GPT2Family(Family):
    """Conv1D stores weights input x output; learned positions."""

    size_keys: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("n_embd", "hidden_size"),
        "layers": ("n_layer", "num_hidden_layers"),
        "heads": ("n_head", "num_attention_heads"),
        "vocab": ("vocab_size",),
        "positions": ("n_positions", "max_position_embeddings"),
    }
    mlp_size: ClassVar[str | None] = "n_inner"
    norm: ClassVar[str] = "transformer.ln_f"

    def views(self, config: Any, layer: Any) -> LayerWeights:
        attention, mlp, heads = layer.attn, layer.mlp, config.num_attention_heads
        query, key, value = attention.c_attn.weight.detach().unflatten(1, (3, heads, -1)).unbind(1)
        biases = attention.c_attn.bias.detach().unflatten(0, (3, heads, -1)).unbind(0)
        return LayerWeights(
            q_DHr=query,
            k_DKr=key,
            v_DKr=value,
            q_bias_Hr=biases[0],
            k_bias_Kr=biases[1],
            v_bias_Kr=biases[2],
            o_HrD=attention.c_proj.weight.detach().unflatten(0, (heads, -1)),
            o_bias_D=attention.c_proj.bias.detach(),
            up_Dm=mlp.c_fc.weight.detach(),
            up_bias_m=mlp.c_fc.bias.detach(),
            down_mD=mlp.c_proj.weight.detach(),
            down_bias_D=mlp.c_proj.bias.detach(),
        )


class GPTNeoXFamily(Family):
    """GPT-NeoX and Pythia: each head's q, k and v side by side, a part of it rotated, parallel residual or not."""

    size_keys: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("hidden_size",),
        "intermediate": ("intermediate_size",),
        "layers": ("num_hidden_layers",),
        "heads": ("num_attention_heads",),
        "vocab": ("vocab_size",),
        "positions": ("max_position_embeddings",),
    }
    partial_rotary: ClassVar[bool] = True
    norm: ClassVar[str] = "gpt_neox.final_layer_norm"

    def views(self, config: Any, layer: Any) -> LayerWeights:
        attention, heads = layer.attention, config.num_attention_heads
        fused, biases = attention.query_key_value, (None, None, None)
        query, key, value = fused.weight.detach().unflatten(0, (heads, 3, -1)).unbind(1)
        if fused.bias is not None:
            biases = fused.bias.detach().unflatten(0, (heads, 3, -1)).unbind(1)
        return LayerWeights(
            q_DHr=query.permute(2, 0, 1),
            k_DKr=key.permute(2, 0, 1),
            v_DKr=value.permute(2, 0, 1),
            q_bias_Hr=biases[0],
            k_bias_Kr=biases[1],
            v_bias_Kr=biases[2],
            o_HrD=heads_in(attention.dense.weight, heads),
            o_bias_D=None if attention.dense.bias is None else attention.dense.bias.detach(),
            **plain_mlp(layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h),
        )
