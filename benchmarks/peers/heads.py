"""Keeping rows and head dimensions: what MoDeGPT, the pruning methods and CLOVER write into a block."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.peers.blocks import Work


def kept_rows(work: Work, index: int, names: Sequence[str], rows: torch.Tensor) -> None:
    """Keep output rows of the named matrices (those the block has), values unchanged."""
    for name in names:
        slot = work.blocks[index].slots.get(name)
        if slot is not None:
            bias = slot.bias
            work.put_rows(index, name, rows, slot.weight[rows], None if bias is None else bias[rows])


def choose_units(units: list[list[int]], scores: torch.Tensor, count: int) -> list[int]:
    """``count`` head dimensions (one fewer where a pair does not fit) by the mean score (h,) of their unit, best first."""
    order = sorted(units, key=lambda unit: -float(scores[unit].mean()))
    dimensions: list[int] = []
    for unit in order:
        if len(dimensions) + len(unit) <= count:
            dimensions += unit
    return sorted(dimensions)


def put_qk(work: Work, index: int, rank: int, scores: torch.Tensor) -> None:
    """Keep the best ``rank`` dimensions of every QK head by ``scores`` (K, h): rotary pairs together, one set per group."""
    block = work.blocks[index]
    if rank >= block.head_dim:
        return
    if block.normed:
        raise ValueError("q and k are normed over whole heads: this method cannot drop dimensions of them")
    size = block.head_dim
    kept_dims = [torch.tensor(choose_units(block.units(), row, rank)) for row in scores]
    rows_k = torch.cat([head * size + dims for head, dims in enumerate(kept_dims)])
    rows_q = torch.cat([head * size + kept_dims[head // block.group] for head in range(block.heads)])
    kept_rows(work, index, ("q",), rows_q)
    kept_rows(work, index, ("k",), rows_k)
    work.kv[index] -= block.kv_heads * size - len(rows_k)


def put_vo(work: Work, index: int, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Per key/value head, v' = A v and W_o' = W_o B for (A (r, h), B (h, r)); stored at the first r dimensions of each head."""
    block = work.blocks[index]
    size, rank = block.head_dim, len(pairs[0][0])
    value, out = block.slots["v"], block.slots["o"].weight
    weight, bias = value.weight.unflatten(0, (block.kv_heads, size)), value.bias
    rows = torch.cat([head * size + torch.arange(rank) for head in range(block.kv_heads)])
    columns = torch.cat([head * size + torch.arange(rank) for head in range(block.heads)])
    new_bias = None
    if bias is not None:
        split = bias.view(block.kv_heads, size)
        new_bias = torch.cat([A @ split[head] for head, (A, _) in enumerate(pairs)])
    work.put_rows(
        index, "v", rows, torch.cat([A @ weight[head] for head, (A, _) in enumerate(pairs)]), new_bias
    )
    new_out = [
        out[:, head * size : (head + 1) * size] @ pairs[head // block.group][1] for head in range(block.heads)
    ]
    work.put_columns(index, "o", columns, torch.cat(new_out, dim=1))
    work.kv[index] -= block.kv_heads * (size - rank)
