"""Latents: the fewest numbers for all heads that a layer's queries, or its values, can be made of again.

With M = T'T the second moment of what is projected to (X W, all heads side by side) and C the metric that its errors are
judged by, an encoder P of R columns and a decoder U of R rows lose ``‖T (I − P U) C^½‖²``. The best P, U of every R at once are
``T^-1 L_R`` and ``L_R' T`` with L the eigenvectors of T C T' (Eckart-Young).
"""

from __future__ import annotations

import torch

from solvers.a3.linalg import damped, damping, factor, tail_sums


def latent_bases(
    moment: torch.Tensor, metric: torch.Tensor, count: int, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nested bases: the latents of all sizes are the first columns of one.

    Args:
        moment, metric: (n, n), symmetric positive semidefinite.
        count: how many rows the moment is the mean of.
        heads: how many a latent is for; its sizes are multiples of that.

    Returns:
        what is lost with r = 0, 1, ... numbers for each head; the encoder (n, n), of which a latent takes the first columns;
        the decoder, of which it takes the first rows.
    """
    # Damped as the bases of single heads are: directions of which the tokens say little are no silent ones.
    root, inverse = factor(damped(moment, damping(len(moment), count)))
    values, left = torch.linalg.eigh(root @ metric @ root.mT)
    left = left.flip(-1)
    return tail_sums(values.flip(-1).clamp_min(0))[::heads], inverse @ left, left.mT @ root
