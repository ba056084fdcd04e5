"""A cut layer's weights at the sizes of other readers: with zeros in the place of dropped dimensions, and without latents."""

from __future__ import annotations

from dataclasses import replace

import torch

from solvers.weights import LayerWeights


def padded_weights(weights: LayerWeights, dense: LayerWeights, *, mlp: bool = True) -> LayerWeights:
    """The same function at the dense layer's sizes: dropped dimensions come back as zeros, rotary pairs at their own place.

    Args:
        mlp: whether dropped neurons come back too.
    """
    weights = without_latents(weights)
    head_dim, intermediate = dense.qk_rank, dense.mlp_rank if mlp else weights.mlp_rank

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


def without_latents(weights: LayerWeights) -> LayerWeights:
    """The same function with queries made of the hidden states, and values of each head at its full size, where the layer has a
    latent of them.
    """
    if weights.q_down_DR is not None:
        queries = torch.einsum("de,ehr->dhr", weights.q_down_DR, weights.q_DHr)
        weights = replace(weights, q_DHr=queries, q_down_DR=None)
    if weights.v_up_KRh is None:
        return weights
    bias, up = weights.v_bias_Kr, weights.v_up_KRh
    return replace(
        weights,
        v_DKr=torch.einsum("dr,krh->dkh", weights.v_DKr.flatten(1), up),
        v_bias_Kr=None if bias is None else torch.einsum("r,krh->kh", bias.flatten(), up),
        v_up_KRh=None,
    )
