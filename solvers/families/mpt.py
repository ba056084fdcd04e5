"""MPT: positions by linear biases on the scores (ALiBi), no rotation, no other biases."""

from __future__ import annotations

from typing import Any, ClassVar

from solvers.families.base import Family, Recorder
from solvers.families.views import heads_in, heads_out, plain_mlp
from solvers.weights import LayerWeights


class MptFamily(Family):
    size_keys: ClassVar[dict[str, tuple[str, ...]]] = {
        "hidden": ("d_model",),
        "layers": ("n_layers",),
        "heads": ("n_heads",),
        "vocab": ("vocab_size",),
        "positions": ("max_seq_len",),
    }
    mlp_size: ClassVar[str | None] = None
    attention_implementation: ClassVar[str] = "eager"
    norm: ClassVar[str] = "transformer.norm_f"

    def views(self, config: Any, layer: Any) -> LayerWeights:
        attention, heads = layer.attn, config.n_heads
        query, key, value = attention.Wqkv.weight.chunk(3, dim=0)
        return LayerWeights(
            q_DHr=heads_out(query, heads),
            k_DKr=heads_out(key, heads),
            v_DKr=heads_out(value, heads),
            o_HrD=heads_in(attention.out_proj.weight, heads),
            **plain_mlp(layer.ffn.up_proj, layer.ffn.down_proj),
        )

    def max_positions(self, config: Any) -> int:
        return config.max_seq_len

    def recorder(self, layer: Any) -> Recorder:
        return _TupleRecorder(layer)


class _TupleRecorder(Recorder):
    """Stock MPT wants a tuple from its blocks; ours gives hidden states alone when asked."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = super().forward(*args, **kwargs)
        self.call = {name: self.call[name] for name in ("position_bias", "attention_mask")} | {"bare": True}
        return hidden, None
