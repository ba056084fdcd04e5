"""Recount a written checkpoint: parameters and cache bytes from its tensors' shapes, not from the plan behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open


def recount(folder: Path, *, layer_count: int) -> dict[str, Any]:
    """Parameters and cache bytes of a written compact checkpoint, from its tensors' shapes alone.

    Returns:
        ``params``, ``kv_bytes_per_token`` and ``layers`` [{layer, latent, k, v, mlp}] (k and v as dimensions over all key/value
        heads, since tensors do not say how many heads there are; ``latent`` of queries, 0 where they are made of none).
    """
    shapes: dict[str, Sequence[int]] = {}
    bytes_of: dict[str, int] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                if part.get_dtype() in ("F32", "F16", "BF16", "F64"):
                    shapes[name] = part.get_shape()
                    bytes_of[name] = {"F64": 8, "F32": 4}.get(part.get_dtype(), 2)
    rows = [_layer_sizes(shapes, index) for index in range(layer_count)]
    width = next(size for name, size in bytes_of.items() if name.endswith("k_proj.weight"))
    return {
        "params": sum(_numel(shape) for shape in shapes.values()),
        "kv_bytes_per_token": width * sum(row["k"] + row["v"] for row in rows),
        "layers": rows,
    }


def _numel(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _layer_sizes(shapes: Mapping[str, Sequence[int]], index: int) -> dict[str, int]:
    def shape(*endings: str) -> Sequence[int]:
        (only,) = [size for name, size in shapes.items() if f".{index}." in name and name.endswith(endings)]
        return only

    # Experts are stored together, (experts, hidden, neurons); every other MLP here has a matrix of its own.
    mlp = shape("up_proj.weight", "experts.down_proj")
    neurons = mlp[0] if len(mlp) == 2 else mlp[2]
    latent = [
        size[0] for name, size in shapes.items() if f".{index}." in name and name.endswith(".q_down.weight")
    ]
    return {
        "layer": index,
        "latent": sum(latent),
        "k": shape("k_proj.weight")[0],
        "v": shape("v_proj.weight")[0],
        "mlp": neurons,
    }
