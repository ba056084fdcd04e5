"""MoDeGPT: Modular Decomposition for LLM compression (Lin et al., ICLR 2025, arXiv 2408.09632v5), Algorithms 1-3.

MLP by Nystroem approximation with ridge leverage scores, QK by CR decomposition (columns by norm), VO by SVD; layers share the
budget by a softmax of their Block Influence. The authors published no code; what the paper as remembered leaves open is
resolved in the method's favour and said below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allocator.profiling.likelihood import nll_nats
from benchmarks.peers.blocks import Accounting, Block, Work
from benchmarks.peers.budget import (
    filled,
    largest_ratio,
    structure,
    structure_count,
    target,
    uniform_structure,
)
from benchmarks.peers.heads import kept_rows, put_qk, put_vo
from benchmarks.peers.moments import Moment, collect, copied, observe
from benchmarks.peers.once import once
from solvers.a3.linalg import factor

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge intensities tried, in units of the mean eigenvalue."""
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SEARCH_WINDOWS = 16
LARGEST_SPARSITY = 0.95


def leverage(second: torch.Tensor, ridge: float) -> torch.Tensor:
    """Ridge leverage scores [C (C + ridge I)^-1]_ii, (m,), of the correlation C (m, m) of down_proj's inputs."""
    solved = torch.linalg.solve(second + ridge * torch.eye(len(second), dtype=second.dtype), second)
    return solved.diagonal().clone()  # not a view: it would hold the whole matrix


def nystroem(down: torch.Tensor, second: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    """Algorithm 1: the new down_proj (D, r), transposed (S'CS)^-1 S'C W_D, for ``down`` (D, m) and indices ``neurons`` (r,)."""
    inner, outer = second[neurons][:, neurons], down @ second[:, neurons]
    # Neurons differ by orders of magnitude: a correlation is what Cholesky can be trusted with.
    scale = inner.diagonal().clamp_min(torch.finfo(inner.dtype).tiny).rsqrt()
    root, failed = torch.linalg.cholesky_ex(scale.unsqueeze(1) * inner * scale)
    if not failed and root.diagonal().square().min() > 1e-10:
        return torch.cholesky_solve((outer * scale).T, root).T * scale
    return outer @ torch.linalg.pinv(inner, hermitian=True, rtol=1e-12)


def leverages(second: torch.Tensor) -> list[torch.Tensor]:
    """``leverage`` at every ridge that is tried."""
    return [leverage(second, ridge * float(second.diagonal().mean())) for ridge in RIDGES]


def choose_neurons(
    down: torch.Tensor, second: torch.Tensor, count: int, scores: Sequence[torch.Tensor] | None = None
) -> torch.Tensor:
    """The ``count`` neurons with the largest ridge leverage.

    The ridge's value is not remembered from the paper; of several, the one is taken whose reconstruction error
    tr(W (C - C_S C_SS^-1 C_S') W') is least, so this is at least as good on calibration as any one of them.

    Args:
        scores: ``leverages(second)``, where they are there already.
    """
    best, least_error = None, float("inf")
    for leverage_scores in leverages(second) if scores is None else scores:
        neurons = leverage_scores.topk(count).indices.sort().values
        new = nystroem(down, second, neurons)
        gap = down.clone()
        gap[:, neurons] -= new
        error = float(((gap @ second) * gap).sum())
        if best is None or error < least_error:
            best, least_error = neurons, error
    assert best is not None, "the first ridge is always taken"
    return best


def qk_scores(block: Block, attn: Moment) -> torch.Tensor:
    """Algorithm 2, squared: ||C^1/2 q_i||^2 ||C^1/2 k_i||^2 of each head dimension, (K, h).

    Grouped query heads add up on the q side. Projection biases are part of q and k.
    """
    energy_q = attn.output(block.slots["q"]).diagonal().view(block.kv_heads, block.group, -1).sum(1)
    return energy_q * attn.output(block.slots["k"]).diagonal().view(block.kv_heads, -1)


def vo_factors(second: torch.Tensor, out: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 3 in head space: A (r, h) and B (h, r) with v' = A v and W_o' = W_o B.

    ``second`` is E[vv'] = T'T (h, h) of the shared value head, ``out`` (n, h) the output weights of all query heads that read
    it, stacked. With U S V' = SVD(T W_o'), A = U_r' T^-T and B = T' U_r: the best rank r for C^1/2 W_V W_O, since
    ||C^1/2 W_V E||_F = ||T E||_F for every E, and the value bias is covered as well.
    """
    T, inverse = factor(second)
    U = torch.linalg.svd(T @ out.T, full_matrices=False).U[:, :rank]
    return (inverse @ U).T, T.T @ U


def apply(
    work: Work,
    ranks: list[tuple[int, int, int]],
    moments: list[dict[str, Moment]],
    scores: Sequence[Sequence[torch.Tensor]],
) -> None:
    """Compress all blocks to (QK, OV, MLP) dimensions; ``scores`` are the ``leverages`` of each block."""
    for index, (block, (qk, ov, neurons)) in enumerate(zip(work.blocks, ranks, strict=True)):
        attn, second = moments[index]["attn"], moments[index]["down"].second
        put_qk(work, index, qk, qk_scores(block, attn))
        size, value = block.head_dim, attn.output(block.slots["v"])
        pairs = []
        for head in range(block.kv_heads):
            part = slice(head * size, (head + 1) * size)
            out = block.slots["o"].weight.unflatten(1, (block.kv_heads, block.group, size))[:, head]
            pairs.append(vo_factors(value[part, part], out.flatten(0, 1), ov))
        if ov < size:
            put_vo(work, index, pairs)
        down = block.slots["down"].weight
        if neurons < down.shape[1]:
            kept_neurons = choose_neurons(down, second, neurons, scores[index])
            new = nystroem(down, second, kept_neurons)
            kept_rows(work, index, ("gate", "up"), kept_neurons)
            work.put_columns(index, "down", kept_neurons, new)


def modegpt_uniform(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """MoDeGPT's three decompositions at one ratio for all layers."""
    work = Work(copied(model))
    apply(work, uniform_structure(work, keep), collect(model, windows), _scores(model, windows))
    return work.model, work.accounting()


def block_influence(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """(L,): 1 - E[cos(x_l, x_l+1)] over tokens, x_l the input of layer l (ShortGPT, arXiv 2403.03853; MoDeGPT section 3.3)."""
    parts = [block.layer for block in Work(model).blocks]
    total, count = torch.zeros(len(parts), dtype=torch.float64), windows.numel()

    def add(index: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output[0] if isinstance(output, tuple) else output
            cosine = torch.nn.functional.cosine_similarity(entering.double(), leaving.double(), dim=-1)
            total[index] += cosine.sum()

        return hook

    def hooks() -> list[Any]:
        return [layer.register_forward_hook(add(i), with_kwargs=True) for i, layer in enumerate(parts)]

    observe(model, windows, hooks)
    return 1 - total / count


def sparsities(influence: torch.Tensor, mean: float, temperature: float) -> torch.Tensor:
    """phi = L mean softmax(-s / temperature) (section 3.3, Theorem 4: the entropy-smoothed optimum), at most 0.95."""
    share = torch.softmax(-influence / temperature, dim=0)
    return (len(influence) * mean * share).clamp(max=LARGEST_SPARSITY)


def modegpt(model: Any, windows: torch.Tensor, keep: float) -> tuple[Any, Accounting]:
    """MoDeGPT with its global allocation; the temperature with the least loss on 16 calibration windows.

    The paper tunes its temperature per model; the uniform allocation (temperature infinity) is one of the candidates here.
    """
    moments, scores = collect(model, windows), _scores(model, windows)
    influence = once("influence", model, windows, lambda: block_influence(model, windows))
    sample, vocab = windows[:SEARCH_WINDOWS], model.config.vocab_size
    best, least_loss = None, float("inf")
    for temperature in (*TEMPERATURES, float("inf")):
        work = Work(copied(model))
        apply(work, _allocation(work, influence, keep, temperature), moments, scores)
        loss = nll_nats(work.model, sample, vocab, prefix=0, tick=lambda: None)
        if best is None or loss < least_loss:
            best, least_loss = work, loss
    assert best is not None, "the first temperature is always taken"
    return best.model, best.accounting()


def _scores(model: Any, windows: torch.Tensor) -> list[list[torch.Tensor]]:
    def make() -> list[list[torch.Tensor]]:
        return [leverages(layer["down"].second) for layer in collect(model, windows)]

    scores: list[list[torch.Tensor]] = once("leverages", model, windows, make)
    return scores


def _allocation(
    work: Work, influence: torch.Tensor, keep: float, temperature: float
) -> list[tuple[int, int, int]]:
    def at(ratio: float) -> list[tuple[int, int, int]]:
        keeps = 1 - sparsities(influence, 1 - ratio, temperature)
        return [structure(block, float(part)) for block, part in zip(work.blocks, keeps, strict=True)]

    def count(ratio: float) -> int:
        return sum(map(structure_count, work.blocks, at(ratio)))

    return filled(work, at(largest_ratio(count, target(work, keep))), keep)
