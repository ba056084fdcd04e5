"""Mixtral: Llama's attention beside routed experts, which are left whole."""

from __future__ import annotations

from typing import Any, ClassVar

from solvers import modeling_rankalloc as modeling
from solvers.families.base import LLAMA_SIZES, Family
from solvers.families.views import linear_views
from solvers.weights import LayerWeights


class MixtralFamily(Family):
    size_keys: ClassVar[dict[str, tuple[str, ...]]] = LLAMA_SIZES | {
        "experts": ("num_local_experts", "num_experts"),
        "active_experts": ("num_experts_per_tok",),
    }
    fixed: ClassVar[tuple[str, ...]] = ("mlp",)

    def views(self, config: Any, layer: Any) -> LayerWeights:
        return linear_views(layer.self_attn, None, config.num_attention_heads, config.num_key_value_heads)

    def mlp_options(self, config: Any) -> dict[str, Any]:
        return modeling.gated_mlp(config)

    def geometry(self, config: Any) -> dict[str, Any]:
        experts = {"experts": config.num_local_experts, "active_experts": config.num_experts_per_tok}
        return super().geometry(config) | experts
