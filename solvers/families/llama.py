"""Families with one ``nn.Linear`` per matrix, as in Llama: Mistral, Qwen2, Qwen3, Gemma 1 to 3."""

from __future__ import annotations

from typing import Any, ClassVar

from solvers.families.base import Family
from solvers.families.views import linear_views
from solvers.weights import LayerWeights


class LlamaFamily(Family):
    """Llama, Mistral (sliding window), Qwen2 (biases on q, k, v; sliding windows by layer), Gemma 1."""

    def views(self, config: Any, layer: Any) -> LayerWeights:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        return linear_views(layer.self_attn, layer.mlp, heads, kv_heads)


class Qwen3Family(LlamaFamily):
    """Every query and key is divided by its root mean square: dropping dimensions would change the rest."""

    fixed: ClassVar[tuple[str, ...]] = ("qk",)


class Gemma2Family(LlamaFamily):
    """Scores are capped softly, which PyTorch's fused attention cannot; norms follow attention and MLP."""

    attention_implementation: ClassVar[str] = "eager"

    def residual_is_direct(self, config: Any) -> bool:
        return False


class Gemma3Family(Qwen3Family):
    """Norms as in Qwen3 and after attention and MLP; a rotary base for each kind of layer."""

    def residual_is_direct(self, config: Any) -> bool:
        return False
