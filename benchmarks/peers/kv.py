"""Methods that compress the KV cache only: Palu and CLOVER. QK and OV change, the MLP does not."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.blocks import Accounting, Block, Work
from benchmarks.peers.heads import put_vo
from benchmarks.peers.low_rank import truncate, whitening
from benchmarks.peers.moments import collect, copied
from benchmarks.peers.once import once

GROUP_HEADS = 4
"""Palu's group-head low rank decomposition shares a latent among 4 key/value heads."""
FISHER_WINDOWS = 64


def palu_uniform(model: Any, windows: torch.Tensor, keep_kv: float) -> tuple[Any, Accounting]:
    """Palu (Chang et al., ICLR 2025, arXiv 2407.21118) with one ratio: K and V projections of each head group by whitened SVD.

    The latent is cached and counted; K is rebuilt before rotation. The rebuilding matrix of V is counted as stored, the cheaper
    form at these sizes (fused into o_proj, as the paper does for speed, every query head would need its own).
    """
    work = Work(copied(model))
    groups = _groups(work)
    weights = dict.fromkeys(groups, 1.0)
    return _palu(work, model, windows, _shares(groups, weights, keep_kv))


def palu(model: Any, windows: torch.Tensor, keep_kv: float) -> tuple[Any, Accounting]:
    """Palu with ranks in proportion to Fisher information (section 3.3; authors' code: rank_search.py, "fisher").

    A group's weight is the mean over its entries of sqrt(E[gradient^2]), one window a sample. Ranks are not rounded to
    multiples of 32 and the remainder goes to the largest fractions, both in the method's favour.
    """
    work = Work(copied(model))
    groups = _groups(work)
    fisher = once("fisher", model, windows, lambda: _fisher(copied(model), windows[:FISHER_WINDOWS]))
    weights = {}
    for (index, name, start), size in groups.items():
        weights[index, name, start] = float(fisher[index, name][start : start + size].mean())
    return _palu(work, model, windows, _shares(groups, weights, keep_kv))


Groups = dict[tuple[int, str, int], int]
"""(layer, "k" or "v", first row) -> rows of a head group."""


def _groups(work: Work) -> Groups:
    groups = {}
    for index, block in enumerate(work.blocks):
        heads = min(GROUP_HEADS, block.kv_heads)
        while block.kv_heads % heads:
            heads -= 1
        for name in "kv":
            for start in range(0, block.kv_heads * block.head_dim, heads * block.head_dim):
                groups[index, name, start] = heads * block.head_dim
    return groups


def _shares(groups: Groups, weights: dict[tuple[int, str, int], float], keep: float) -> Groups:
    """Ranks in proportion to ``weights``, each from 1 to full, with sum floor(keep x full)."""
    budget = int(keep * sum(groups.values()) + 1e-9)
    if budget < len(groups):
        raise ValueError(f"keep_kv={keep} leaves some head group without a rank")
    ranks = dict.fromkeys(groups, 1.0)
    low, high = 0.0, sum(groups.values()) / min(filter(None, weights.values()), default=1.0)
    for _ in range(100):
        middle = (low + high) / 2
        ranks = {key: min(float(full), max(1.0, middle * weights[key])) for key, full in groups.items()}
        low, high = (middle, high) if sum(ranks.values()) <= budget else (low, middle)
    ranks = {key: min(float(full), max(1.0, low * weights[key])) for key, full in groups.items()}
    floored = {key: int(rank) for key, rank in ranks.items()}
    for key in sorted(groups, key=lambda key: floored[key] - ranks[key]):
        if sum(floored.values()) < budget and floored[key] < groups[key]:
            floored[key] += 1
    return floored


def _fisher(model: Any, windows: torch.Tensor) -> dict[tuple[int, str], torch.Tensor]:
    """sqrt(E[gradient^2]) of the k and v weights, (out, in)."""
    totals: dict[tuple[int, str], torch.Tensor] = {}
    parts = [(i, name, slot) for i, name, slot in Work(model).matrices() if name in ("k", "v")]
    model.requires_grad_(False)
    for _, _, slot in parts:
        slot.module.weight.requires_grad_(True)
    for window in windows:
        model.zero_grad()
        model(window.unsqueeze(0), labels=window.unsqueeze(0), use_cache=False).loss.backward()
        for index, name, slot in parts:
            squared = slot.gradient.square()
            totals[index, name] = totals.get((index, name), torch.zeros_like(squared)) + squared
    return {key: (total / len(windows)).sqrt() for key, total in totals.items()}


def _palu(work: Work, model: Any, windows: torch.Tensor, ranks: Groups) -> tuple[Any, Accounting]:
    moments = collect(model, windows)
    groups = _groups(work)
    for index, block in enumerate(work.blocks):
        scale = whitening(moments[index]["attn"].second)
        work.kv[index] = 0
        for name in "kv":
            weight, parts = block.slots[name].weight, []
            for start, size in [(key[2], full) for key, full in groups.items() if key[:2] == (index, name)]:
                rank, rows = ranks[index, name, start], weight[start : start + size]
                parts.append((rows,) if rank == size else truncate(rows, rank, scale))
                work.kv[index] += rank
            work.put_row_groups(index, name, parts)
    return work.model, work.accounting()


def clover(model: Any, windows: torch.Tensor, keep_kv: float) -> tuple[Any, Accounting]:
    """CLOVER (Meng et al., ICML 2025, arXiv 2411.17426): SVD of W_q W_k' and of W_v W_o per head, without data.

    A rotation between q and k does not commute with the SVD, so in rotary models only V/O are pruned, as in the paper, and
    ``keep_kv`` of the whole cache must come from V. Biases enter as one more input row of the weights.

    Raises:
        ValueError: a rotary model with ``keep_kv`` of a half or less.
    """
    work = Work(copied(model))
    for index, block in enumerate(work.blocks):
        size = block.head_dim
        value_rank = int(keep_kv * size + 1e-9)
        if block.rotary:
            value_rank = int((2 * keep_kv - 1) * size + 1e-9)
        else:
            _clover_qk(work, index, value_rank)
        if value_rank < 1:
            raise ValueError(
                f"keep_kv={keep_kv} leaves CLOVER no value dimension; in rotary models it keeps all of K"
            )
        if value_rank < size:
            put_vo(work, index, _clover_vo(block, value_rank))
    return work.model, work.accounting()


def _augmented(block: Block, name: str) -> torch.Tensor:
    """(heads, h, D or D + 1): a projection's weights per head, its bias as one more column."""
    slot = block.slots[name]
    bias, weight = slot.bias, slot.weight
    full = weight if bias is None else torch.cat([weight, bias.unsqueeze(1)], dim=1)
    return full.unflatten(0, (-1, block.head_dim))


def _clover_qk(work: Work, index: int, rank: int) -> None:
    block = work.blocks[index]
    assert block.group == 1, "grouped heads without rotation occur in no family here"
    if rank >= block.head_dim:
        return
    new: dict[str, list[torch.Tensor]] = {"q": [], "k": []}
    for query, key in zip(_augmented(block, "q"), _augmented(block, "k"), strict=True):
        (basis_q, left), (basis_k, right) = torch.linalg.qr(query.T), torch.linalg.qr(key.T)
        U, sigma, Vh = torch.linalg.svd(left @ right.T)
        root = sigma[:rank].sqrt()
        new["q"].append((basis_q @ U[:, :rank] * root).T)
        new["k"].append((basis_k @ Vh[:rank].T * root).T)
    rows = torch.cat([head * block.head_dim + torch.arange(rank) for head in range(block.heads)])
    for name, heads in new.items():
        stacked = torch.cat(heads)
        slot = block.slots[name]
        biased = slot.bias is not None
        work.put_rows(
            index, name, rows, stacked[:, :-1] if biased else stacked, stacked[:, -1] if biased else None
        )
    work.kv[index] -= block.kv_heads * (block.head_dim - rank)


def _clover_vo(block: Block, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    out = block.slots["o"].weight.unflatten(1, (block.kv_heads, block.group, block.head_dim))
    pairs = []
    for head, value in enumerate(_augmented(block, "v")):
        root = torch.linalg.qr(value.T, mode="r").R
        U = torch.linalg.svd(root @ out[:, head].flatten(0, 1).T, full_matrices=False).U[:, :rank]
        pairs.append(((torch.linalg.pinv(root) @ U).T, root.T @ U))
    return pairs
