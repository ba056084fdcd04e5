"""Put mixed-rank layers into a loaded model, and run a model in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from solvers.families import FAMILIES, Call, Family
from solvers.weights import LayerWeights


@dataclass
class OpenModel:
    """A loaded model whose layers can be read, exchanged and run one by one.

    ``source`` holds every layer's original weights; the model itself carries mixed-rank modules in their place, at full
    rank until ``put`` says otherwise. Nothing is shared between the two after the first ``put`` of a layer.
    """

    model: Any
    family: Family
    source: list[LayerWeights]

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    def layer(self, index: int) -> Any:
        return self.family.layers(self.model)[index]

    def attention(self, index: int) -> Any:
        return getattr(self.layer(index), self.family.attention_name)

    def put(self, index: int, weights: LayerWeights) -> None:
        """Give layer ``index`` these weights, at whatever ranks they have, in the model's dtype and on its device."""
        self.family.put(self.model, index, weights)

    def reset(self, index: int) -> None:
        """Give layer ``index`` its original weights back."""
        self.put(index, self.source[index])

    @torch.no_grad()
    def start(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Hidden states (B, T, D) before layer 0, and the keyword arguments of every layer."""
        return self.family.embed(self.model, input_ids.to(self.device))

    @torch.no_grad()
    def advance(self, hidden: torch.Tensor, calls: list[Call], first: int, last: int) -> torch.Tensor:
        """Run layers ``first`` to ``last - 1``."""
        for index in range(first, last):
            hidden = self.layer(index)(hidden, **calls[index])
        return hidden

    @torch.no_grad()
    def finish(self, hidden: torch.Tensor, calls: list[Call], first: int) -> torch.Tensor:
        """Logits (B, T, V) in float32, from the hidden states before layer ``first``."""
        hidden = self.advance(hidden, calls, first, len(self.source))
        return self.family.logits(self.model, hidden).float()


def open_model(model: Any) -> OpenModel:
    """Replace the layers of a loaded stock model by mixed-rank modules at full rank: the same function.

    Raises:
        KeyError: the model's family has no adapter (``solvers.reading.inspect`` refuses it before).
    """
    family = FAMILIES[model.config.model_type]
    source = [family.read_layer(model.config, layer) for layer in family.layers(model)]
    opened = OpenModel(model=model.eval(), family=family, source=source)
    for index in range(len(source)):
        opened.reset(index)
    return opened


def padded_weights(weights: LayerWeights, dense: LayerWeights) -> LayerWeights:
    """The same function at the dense layer's sizes: dropped dimensions come back as zeros, rotary pairs at their own place."""
    head_dim, intermediate = dense.qk_rank, dense.mlp_rank

    def grow(tensor: torch.Tensor | None, dim: int, size: int) -> torch.Tensor | None:
        if tensor is None:
            return None
        shape = list(tensor.shape)
        shape[dim] = size - shape[dim]
        return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)

    def place(tensor: torch.Tensor | None, slots: torch.Tensor) -> torch.Tensor | None:
        """Scatter the last axis (r) of (..., heads, r) into head_dim positions ``slots`` (heads, r)."""
        if tensor is None:
            return None
        target = tensor.new_zeros((*tensor.shape[:-1], head_dim))
        return target.scatter(-1, slots.expand(tensor.shape), tensor)

    rank = weights.qk_rank
    if weights.pairs is None or dense.pairs is None:
        slots_K = torch.arange(rank).expand(weights.kv_heads, -1)
    else:
        # Unrotated dimensions follow the rotated ones, in the source as in ours.
        half, free = dense.pairs.shape[1], rank - 2 * weights.pairs.shape[1]
        unrotated = torch.arange(2 * half, 2 * half + free).expand(weights.kv_heads, -1)
        slots_K = torch.cat([weights.pairs, weights.pairs + half, unrotated.to(weights.pairs)], dim=1).long()
    slots_K = slots_K.to(weights.q_DHr.device)
    slots_H = slots_K.repeat_interleave(weights.heads // weights.kv_heads, dim=0)
    changed: dict[str, torch.Tensor | None] = {
        "q_DHr": place(weights.q_DHr, slots_H),
        "k_DKr": place(weights.k_DKr, slots_K),
        "q_bias_Hr": place(weights.q_bias_Hr, slots_H),
        "k_bias_Kr": place(weights.k_bias_Kr, slots_K),
        "v_DKr": grow(weights.v_DKr, 2, head_dim),
        "v_bias_Kr": grow(weights.v_bias_Kr, 1, head_dim),
        "o_HrD": grow(weights.o_HrD, 1, head_dim),
        "gate_Dm": grow(weights.gate_Dm, 1, intermediate),
        "up_Dm": grow(weights.up_Dm, 1, intermediate),
        "gate_bias_m": grow(weights.gate_bias_m, 0, intermediate),
        "up_bias_m": grow(weights.up_bias_m, 0, intermediate),
        "down_mD": grow(weights.down_mD, 0, intermediate),
        "o_bias_D": weights.o_bias_D,
        "down_bias_D": weights.down_bias_D,
    }
    return LayerWeights(**changed, pairs=dense.pairs)  # type: ignore[arg-type]
