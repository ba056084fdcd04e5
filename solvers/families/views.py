"""Views of modules' tensors in the shapes of ``LayerWeights``: reading and writing are copies from and to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from solvers.weights import LayerWeights


def heads_out(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A projection to heads, (heads r, D) as ``nn.Linear`` stores it, as (D, heads, r)."""
    return weight.detach().unflatten(0, (heads, -1)).permute(2, 0, 1)


def heads_in(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A projection from heads, (D, heads r) as ``nn.Linear`` stores it, as (heads, r, D)."""
    return weight.detach().unflatten(1, (heads, -1)).permute(1, 2, 0)


def heads_bias(bias: torch.Tensor | None, heads: int) -> torch.Tensor | None:
    return None if bias is None else bias.detach().unflatten(0, (heads, -1))


def detached(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach()


def no_mlp(hidden: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """The MLP part of the weights of a layer whose MLP is left alone: no neurons."""
    return {"up_Dm": like.new_zeros(hidden, 0), "down_mD": like.new_zeros(0, hidden)}


def plain_mlp(up: nn.Linear, down: nn.Linear) -> dict[str, Any]:
    return {
        "up_Dm": up.weight.detach().T,
        "up_bias_m": detached(up.bias),
        "down_mD": down.weight.detach().T,
        "down_bias_D": detached(down.bias),
    }


def linear_views(attention: Any, mlp: Any, heads: int, kv_heads: int) -> LayerWeights:
    """Views of modules that keep every matrix as an ``nn.Linear`` of its own: ours, and stock Llama."""
    query, key, value, output = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    down = getattr(attention, "q_down", None)
    fields: dict[str, Any] = {
        "q_DHr": heads_out(query.weight, heads),
        "k_DKr": heads_out(key.weight, kv_heads),
        "v_DKr": heads_out(value.weight, kv_heads),
        "o_HrD": heads_in(output.weight, heads),
        "q_bias_Hr": heads_bias(query.bias, heads),
        "k_bias_Kr": heads_bias(key.bias, kv_heads),
        "v_bias_Kr": heads_bias(value.bias, kv_heads),
        "o_bias_D": detached(output.bias),
        "v_up_KRh": detached(getattr(attention, "v_up", None)),
        "q_down_DR": None if down is None else down.weight.detach().T,
    }
    if mlp is None:
        return LayerWeights(**fields, **no_mlp(output.out_features, output.weight))
    if getattr(mlp, "gate_proj", None) is not None:
        fields |= {"gate_Dm": mlp.gate_proj.weight.detach().T, "gate_bias_m": detached(mlp.gate_proj.bias)}
    return LayerWeights(**fields, **plain_mlp(mlp.up_proj, mlp.down_proj))


def fill(views: LayerWeights, weights: LayerWeights) -> None:
    """Copy weights into a module through its views."""
    for name, view in vars(views).items():
        if view is not None and name != "pairs":
            value = getattr(weights, name)
            assert value is not None, name
            view.copy_(value)
