"""Symmetric sums of x'x in float64, of which only the blocks on and below the diagonal are computed and stored.

Where they are wide their products are float32, as the activations are, and only the sums over chunks of tokens float64: the
noise is 1e-6 of the diagonal, and solvers add at least a thousandth of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

_CHUNK = 1 << 24
"""Numbers that are turned into float64 at a time."""
_WIDE = 512
"""From this size on a Gram matrix is computed in float32, and in blocks of so many rows."""
_NARROW = 256
"""Rows of the blocks of a sum whose other half waits for its end."""
_TOKENS = 2048
"""Rows that float32 products are summed over."""


def add_gram(sums: dict[str, torch.Tensor], name: str, states: torch.Tensor) -> None:
    """Add the sum over batch and tokens of x'x, (B, heads, T, h) -> (heads, h, h) in float64, in place."""
    flat = states.transpose(0, 1).flatten(1, 2)
    heads, _, size = flat.shape
    if name not in sums:
        sums[name] = flat.new_zeros(heads, size, size, dtype=torch.float64)
    if size > _WIDE and heads == 1:
        _add_wide_gram(sums[name][0], flat[0])
        return
    for part in flat.split(max(1, _CHUNK // max(1, heads * size)), dim=1):
        rows = part.double()
        sums[name].baddbmm_(rows.mT, rows)


def _add_wide_gram(total: torch.Tensor, rows: torch.Tensor) -> None:
    """Add X'X of (N, n) to (n, n), block by block below the diagonal; what is above is its mirror."""
    for part in rows.split(_TOKENS):
        for start in range(0, total.shape[0], _WIDE):
            columns = slice(start, start + _WIDE)
            block = (part[:, columns].T @ part[:, : start + _WIDE]).double()
            total[columns, : start + _WIDE] += block
            total[:start, columns] += block[:, :start].T


def add_lower(total: torch.Tensor, rows: torch.Tensor) -> None:
    """Add X'X of (N, n), in the type of X, to the blocks of (n, n) on and below the diagonal; ``mirrored`` does the rest."""
    for start in range(0, total.shape[0], _NARROW):
        block = slice(start, start + _NARROW)
        total[block, : start + _NARROW] += rows[:, block].T @ rows[:, : start + _NARROW]


def mirrored(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix with the elements of ``lower`` on and below the diagonal."""
    return lower.tril() + lower.tril(-1).T


def panels(gram: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """The first row of each panel, and the panel: its rows of a symmetric (n, n) up to the end of its diagonal block."""
    for start in range(0, len(gram), _WIDE):
        yield start, gram[start : start + _WIDE, : start + _WIDE]


def from_panels(size: int, panel_at: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """The symmetric (size, size), float64, whose panel from row ``start`` on is ``panel_at(start)``."""
    gram = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, size, _WIDE):
        rows, above = slice(start, start + _WIDE), slice(0, start)
        panel = panel_at(start)
        gram[rows, : start + _WIDE] = panel
        gram[above, rows] = panel[:, :start].T
    return gram
