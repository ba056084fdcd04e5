"""Second moments of a model's inner activations: float64, streaming, mergeable.

Shape suffixes: H query heads, K key/value heads, h head size, m MLP neurons. All are uncentred sums over tokens;
``count`` divides them. Two sets of moments over different tokens add up to the moments over both.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from solvers.surgery import OpenModel


@dataclass
class LayerMoments:
    """What the solvers of one layer need to know about the data.

    ``q_Hhh``, ``k_Khh``, ``v_Khh``: outputs of the projections, bias included, before any rotation. ``z_Hhh``: input of
    o_proj per head (softmax(A) V). ``mlp_mm``: input of down_proj. Only with rotary positions: ``q_rotated_Khh`` (summed
    over the group's query heads) and ``k_rotated_Khh``.
    """

    count: int
    q_Hhh: torch.Tensor
    k_Khh: torch.Tensor
    v_Khh: torch.Tensor
    z_Hhh: torch.Tensor
    mlp_mm: torch.Tensor
    q_rotated_Khh: torch.Tensor | None = None
    k_rotated_Khh: torch.Tensor | None = None

    def __add__(self, other: LayerMoments) -> LayerMoments:
        merged: dict[str, Any] = {}
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            merged[item.name] = None if mine is None else mine + theirs
        return LayerMoments(**merged)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}


def _gram(states: torch.Tensor) -> torch.Tensor:
    """Sum over batch and tokens of x'x: (B, heads, T, h) -> (heads, h, h), in float64."""
    flat = states.double().transpose(0, 1).flatten(1, 2)
    return flat.mT @ flat


@torch.no_grad()
def layer_moments(
    opened: OpenModel, index: int, hidden: torch.Tensor, call: dict[str, Any]
) -> tuple[LayerMoments, torch.Tensor]:
    """Moments of layer ``index`` at full rank for one batch, and its output, given its input (B, T, D)."""
    caught: dict[str, torch.Tensor] = {}
    layer, attention = opened.layer(index), opened.attention(index)

    def keep_output(name: str) -> Any:
        return lambda module, args, output: caught.__setitem__(name, output)

    def keep_input(name: str) -> Any:
        return lambda module, args: caught.__setitem__(name, args[0])

    handles = [
        attention.q_proj.register_forward_hook(keep_output("q")),
        attention.k_proj.register_forward_hook(keep_output("k")),
        attention.v_proj.register_forward_hook(keep_output("v")),
        attention.o_proj.register_forward_pre_hook(keep_input("z")),
    ]
    if hasattr(layer.mlp, "down_proj"):
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(keep_input("mlp")))
    try:
        output = layer(hidden, **call)
    finally:
        for handle in handles:
            handle.remove()
    batch, tokens = hidden.shape[:2]

    def by_head(name: str, heads: int) -> torch.Tensor:
        return caught[name].view(batch, tokens, heads, -1).transpose(1, 2)

    query, key = by_head("q", attention.heads), by_head("k", attention.kv_heads)
    moments = LayerMoments(
        count=batch * tokens,
        q_Hhh=_gram(query),
        k_Khh=_gram(key),
        v_Khh=_gram(by_head("v", attention.kv_heads)),
        z_Hhh=_gram(by_head("z", attention.heads)),
        # An MLP that is left alone has no neurons to us.
        mlp_mm=_gram(by_head("mlp", 1))[0] if "mlp" in caught else hidden.new_zeros((0, 0)).double(),
    )
    if attention.pairs is not None:
        query, key = attention.rotated(*attention.normed(query, key), call["position_embeddings"])
        groups = (attention.kv_heads, attention.num_key_value_groups)
        moments.q_rotated_Khh = _gram(query).unflatten(0, groups).sum(1)
        moments.k_rotated_Khh = _gram(key)
    return moments, output


@torch.no_grad()
def collect(opened: OpenModel, input_ids: torch.Tensor) -> list[LayerMoments]:
    """Moments of every layer over one batch of token ids (B, T)."""
    hidden, calls = opened.start(input_ids)
    found = []
    for index in range(len(opened.source)):
        moments, hidden = layer_moments(opened, index, hidden, calls[index])
        found.append(moments)
    return found


def add(total: list[LayerMoments] | None, more: list[LayerMoments]) -> list[LayerMoments]:
    """Layer by layer sum; ``None`` is the empty set."""
    return more if total is None else [a + b for a, b in zip(total, more, strict=True)]


def save(path: Path, moments: list[LayerMoments]) -> None:
    """Write the moments of all layers to one safetensors file."""
    tensors = {
        f"{index}.{name}": t.contiguous()
        for index, m in enumerate(moments)
        for name, t in m.tensors().items()
    }
    save_file(tensors, path, metadata={"count": str(moments[0].count)})


def load(path: Path, index: int) -> LayerMoments:
    """Read one layer's moments."""
    with safe_open(path, framework="pt") as file:
        count = int(file.metadata()["count"])
        prefix = f"{index}."
        tensors = {
            name.removeprefix(prefix): file.get_tensor(name)
            for name in file.keys()
            if name.startswith(prefix)
        }
    return LayerMoments(count=count, **tensors)
