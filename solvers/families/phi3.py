"""Phi-3: q, k and v in one matrix, gate and up in another; some models rotate a part of each head."""

from __future__ import annotations

from typing import Any, ClassVar

from solvers.families.base import Family
from solvers.families.views import heads_in, heads_out
from solvers.weights import LayerWeights


class Phi3Family(Family):
    partial_rotary: ClassVar[bool] = True

    def views(self, config: Any, layer: Any) -> LayerWeights:
        attention, mlp = layer.self_attn, layer.mlp
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size = attention.o_proj.in_features // heads
        query, key, value = attention.qkv_proj.weight.split(
            [heads * size, kv_heads * size, kv_heads * size], dim=0
        )
        gate, up = mlp.gate_up_proj.weight.detach().chunk(2, dim=0)
        return LayerWeights(
            q_DHr=heads_out(query, heads),
            k_DKr=heads_out(key, kv_heads),
            v_DKr=heads_out(value, kv_heads),
            o_HrD=heads_in(attention.o_proj.weight, heads),
            gate_Dm=gate.T,
            up_Dm=up.T,
            down_mD=mlp.down_proj.weight.detach().T,
        )
