"""Head-space solves against the paper's d x d roots and SVDs: the same function, side by side in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from solvers.linalg import factor


def _best_of(work: Callable[[], torch.Tensor], times: int = 3) -> tuple[float, torch.Tensor]:
    """Least seconds of several runs, and the last result."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def _moment(size: int, generator: torch.Generator) -> torch.Tensor:
    data = torch.randn(2 * size, size, generator=generator, dtype=torch.float64)
    data *= torch.logspace(0, -2, size, dtype=torch.float64)
    return data.T @ data / len(data)


def literal_qk(gram: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Theorem 3.2 for one head as printed: roots of d x d moments, SVD of a d x d product; singular values."""
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return torch.linalg.svdvals(root @ query @ key.T @ root)


def head_space_qk(gram: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The same singular values from h x h moments of the head's own queries and keys."""
    roots = [factor(side.T @ gram @ side)[0] for side in (query, key)]
    return torch.linalg.svdvals(roots[0] @ roots[1].T)


def run(sizes: tuple[int, ...] = (256, 512, 1024), head_dim: int = 64) -> list[dict[str, float]]:
    """One head at several hidden sizes: agreement and ratio of times. The moments' own cost is in neither."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size in sizes:
        gram = _moment(size, generator)
        query, key = (torch.randn(size, head_dim, generator=generator, dtype=torch.float64) for _ in range(2))
        slow, literal = _best_of(partial(literal_qk, gram, query, key))
        fast, ours = _best_of(partial(head_space_qk, gram, query, key))
        gap = float((literal[:head_dim] - ours).abs().max() / literal.max())
        rows.append({"hidden": size, "head_dim": head_dim, "ratio": slow / fast, "largest_gap": gap})
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| hidden | head_dim | literal / head space (time) | largest relative gap |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['hidden']} | {row['head_dim']} | {row['ratio']:.0f} | {row['largest_gap']:.0e} |"
        for row in rows
    ]
    return "\n".join(lines)
