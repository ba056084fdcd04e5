"""OPT: learned positions, biases, an MLP that is two matrices of the layer itself."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from solvers.families.base import Family
from solvers.families.views import detached, heads_bias, heads_in, heads_out, plain_mlp
from solvers.weights import LayerWeights


class OPTFamily(Family):
    size_keys: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("hidden_size",),
        "intermediate": ("ffn_dim",),
        "layers": ("num_hidden_layers",),
        "heads": ("num_attention_heads",),
        "vocab": ("vocab_size",),
        "positions": ("max_position_embeddings",),
    }
    mlp_size: ClassVar[str | None] = "ffn_dim"

    def views(self, config: Any, layer: Any) -> LayerWeights:
        attention, heads = layer.self_attn, config.num_attention_heads
        query, key, value, output = attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj
        return LayerWeights(
            q_DHr=heads_out(query.weight, heads),
            k_DKr=heads_out(key.weight, heads),
            v_DKr=heads_out(value.weight, heads),
            q_bias_Hr=heads_bias(query.bias, heads),
            k_bias_Kr=heads_bias(key.bias, heads),
            v_bias_Kr=heads_bias(value.bias, heads),
            o_HrD=heads_in(output.weight, heads),
            o_bias_D=detached(output.bias),
            **plain_mlp(layer.fc1, layer.fc2),
        )

    def residual_is_direct(self, config: Any) -> bool:
        return bool(config.do_layer_norm_before)

    def normed(self, model: Any, hidden: torch.Tensor) -> torch.Tensor:
        norm = model.model.decoder.final_layer_norm
        return hidden if norm is None else norm(hidden)
