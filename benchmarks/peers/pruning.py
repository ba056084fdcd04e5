"""Structured pruning without refit: Wanda's score aggregated over structures, and plain magnitude."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.blocks import READS, Accounting, Block, Work
from benchmarks.peers.budget import uniform_structure
from benchmarks.peers.heads import kept_rows, put_qk, put_vo
from benchmarks.peers.moments import Moment, collect, copied

Norms = dict[str, torch.Tensor]
"""Activation -> the root mean square of its channels, (in,)."""


def row_scores(weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """(out,): mean over inputs of Wanda's |W_ij| ||x_j|| (Sun et al., ICLR 2024, arXiv 2306.11695, equation 1)."""
    return (weight.abs() * norm).mean(1)


def column_scores(weight: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """(in,): mean over outputs of the same."""
    return (weight.abs() * norm).mean(0)


def prune(work: Work, ranks: list[tuple[int, int, int]], norms: list[Norms]) -> None:
    """Keep the best structures of every block, values unchanged.

    Wanda itself is unstructured; the aggregation is that of its structured users: a neuron by its column of down_proj, a VO
    dimension by its columns of o_proj (summed over the group's query heads), a QK dimension by the product of its q and k rows
    (for rotary heads the mean over the pair).
    """
    for index, (block, (qk, ov, neurons)) in enumerate(zip(work.blocks, ranks, strict=True)):
        score = {
            name: row_scores(slot.weight, norms[index][READS[name]]) for name, slot in block.slots.items()
        }
        by_group = (block.kv_heads, block.group, block.head_dim)
        put_qk(work, index, qk, score["q"].view(by_group).sum(1) * score["k"].view(by_group[0], -1))
        out = column_scores(block.slots["o"].weight, norms[index]["o"]).view(by_group).sum(1)
        if ov < block.head_dim:
            eye = torch.eye(block.head_dim, dtype=out.dtype)
            selections = [eye[row.topk(ov).indices.sort().values] for row in out]
            put_vo(work, index, [(rows, rows.T) for rows in selections])
        down = block.slots["down"].weight
        if neurons < down.shape[1]:
            best = column_scores(down, norms[index]["down"]).topk(neurons).indices.sort().values
            kept_rows(work, index, ("gate", "up"), best)
            work.put_columns(index, "down", best, down[:, best])


def wanda(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """Structured Wanda at one ratio for all components."""
    return _wanda(model, windows, keep, whole_qk=False)


def wanda_vo(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """The same for VO and MLP alone: its scores know nothing of what queries and keys are to each other."""
    return _wanda(model, windows, keep, whole_qk=True)


def _wanda(model: Any, windows: torch.Tensor, keep: float, *, whole_qk: bool) -> tuple[Any, Accounting]:
    work = Work(copied(model))
    norms = [{kind: _norm(moment) for kind, moment in layer.items()} for layer in collect(model, windows)]
    prune(work, uniform_structure(work, keep, whole_qk=whole_qk), norms)
    return work.model, work.accounting()


def magnitude(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """The same with every ||x_j|| = 1; sees no data."""
    work = Work(copied(model))
    prune(work, uniform_structure(work, keep), [_ones(block) for block in work.blocks])
    return work.model, work.accounting()


def _norm(moment: Moment) -> torch.Tensor:
    return moment.second.diagonal().sqrt()


def _ones(block: Block) -> Norms:
    return {
        READS[name]: torch.ones(slot.weight.shape[1], dtype=torch.float64)
        for name, slot in block.slots.items()
    }
