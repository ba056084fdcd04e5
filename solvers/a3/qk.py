"""Queries and keys: fewer dimensions for the same scores.

A3 (arXiv 2505.12942v4) Thm 3.2 and section 3.4 without rotary positions, App. B.5 with them, both in head space: the paper's
d x d roots and SVDs have the same optimum as h x h ones on the moments of the queries and keys themselves
(``docs/explanation/a3-math.md``), and biases are then exact.

Losses are mean squared score errors over all (query, key) pairs of the calibration tokens, summed over heads, before the
softmax scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.linalg import factor, tail_sums
from solvers.a3.moments import LayerMoments
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class QKBases:
    """Head-space bases: query i becomes q A_i, key k B_k; every rank is a prefix of the columns."""

    losses: torch.Tensor
    """(h + 1,): loss when r = 0..h dimensions are kept."""
    energy: float
    to_query_Hhh: torch.Tensor
    to_key_Khh: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` dimensions per query and key head."""
        a_Hhr, b_Khr = self.to_query_Hhh[..., :rank], self.to_key_Khh[..., :rank]
        return replace(
            weights,
            q_DHr=torch.einsum("dhi,hir->dhr", weights.q_DHr, a_Hhr),
            k_DKr=torch.einsum("dki,kir->dkr", weights.k_DKr, b_Khr),
            q_bias_Hr=None
            if weights.q_bias_Hr is None
            else torch.einsum("hi,hir->hr", weights.q_bias_Hr, a_Hhr),
            k_bias_Kr=None
            if weights.k_bias_Kr is None
            else torch.einsum("ki,kir->kr", weights.k_bias_Kr, b_Khr),
        )


@dataclass(frozen=True)
class QKPairs:
    """Rotary pairs in the order in which they are kept, per key/value head: rank r keeps the first r/2, unscaled."""

    losses: torch.Tensor
    """(h + 1,): at odd r the value for r - 1, since pairs cannot be split."""
    energy: float
    order_KP: torch.Tensor

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` (even) dimensions per query and key head.

        Kept pairs are stored in ascending frequency index, so equal sets give equal tensors.
        """
        pairs_Kp = self.order_KP[:, : rank // 2].sort(dim=1).values
        half = self.order_KP.shape[1]
        columns_Kr = torch.cat([pairs_Kp, pairs_Kp + half], dim=1)
        columns_Hr = columns_Kr.repeat_interleave(weights.heads // weights.kv_heads, dim=0)

        def pick(tensor: torch.Tensor | None, columns: torch.Tensor) -> torch.Tensor | None:
            if tensor is None:
                return None
            return tensor.gather(-1, columns.expand(*tensor.shape[:-1], rank))

        query, key = pick(weights.q_DHr, columns_Hr), pick(weights.k_DKr, columns_Kr)
        assert query is not None
        assert key is not None
        return replace(
            weights,
            q_DHr=query,
            k_DKr=key,
            q_bias_Hr=pick(weights.q_bias_Hr, columns_Hr),
            k_bias_Kr=pick(weights.k_bias_Kr, columns_Kr),
            pairs=pairs_Kp,
        )


def solve_qk(moments: LayerMoments) -> QKBases | QKPairs:
    """Bases or pair order for all ranks of one layer; rotary positions are recognised by the rotated moments."""
    return _solve_bases(moments) if moments.q_rotated_Khh is None else _solve_pairs(moments)


def _solve_bases(moments: LayerMoments) -> QKBases:
    kv_heads = moments.k_Khh.shape[0]
    group = moments.q_Hhh.shape[0] // kv_heads
    keys = moments.k_Khh / moments.count
    if group == 1:
        root_k, inverse_k = factor(keys)
        root_q, inverse_q = factor(moments.q_Hhh / moments.count)
        left, sigma, right = torch.linalg.svd(root_q @ root_k.mT)
        # Σ is shared evenly between the two sides, so that neither is scaled out of half precision's range.
        scale = sigma.sqrt().unsqueeze(-2)
        to_query, to_key = inverse_q @ left * scale, inverse_k @ right.mT * scale
        energies_h = sigma.square().sum(0)
    else:
        grouped = moments.q_Hhh.unflatten(0, (kv_heads, group)).sum(1) / moments.count
        values, to_query, to_key = grouped_bases(grouped, keys)
        to_query = to_query.repeat_interleave(group, dim=0)
        energies_h = values.sum(0)
    losses = tail_sums(energies_h)
    return QKBases(losses=losses, energy=float(losses[0]), to_query_Hhh=to_query, to_key_Khh=to_key)


def grouped_bases(
    queries_Khh: torch.Tensor, keys_Khh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Section 3.4 in head space: energies (K, h) in descending order, and what queries and keys are multiplied by.

    Args:
        queries_Khh: the queries' moment, summed over each group.
        keys_Khh: the keys' moment, or what stands in its place.
    """
    root_k, inverse_k = factor(keys_Khh)
    values, vectors = torch.linalg.eigh(root_k @ queries_Khh @ root_k.mT)
    vectors = vectors.flip(-1)
    return values.flip(-1).clamp_min(0), root_k.mT @ vectors, inverse_k @ vectors


def _solve_pairs(moments: LayerMoments) -> QKPairs:
    kv_heads, size = moments.k_Khh.shape[:2]
    group, half = moments.q_Hhh.shape[0] // kv_heads, size // 2
    q_energy = moments.q_Hhh.diagonal(dim1=1, dim2=2).unflatten(0, (kv_heads, group)).sum(1) / moments.count
    k_energy = moments.k_Khh.diagonal(dim1=1, dim2=2) / moments.count
    importance_KP = (q_energy * k_energy).unflatten(1, (2, half)).sum(1)
    order_KP = importance_KP.argsort(dim=1, descending=True, stable=True)
    assert moments.q_rotated_Khh is not None
    assert moments.k_rotated_Khh is not None
    # λ only orders; the loss of dropping a set of pairs is the sum over that set of the Gram matrix H of the pairs'
    # contributions to the rotated scores (docs/explanation/a3-math.md, section 2).
    cross = (moments.q_rotated_Khh / moments.count) * (moments.k_rotated_Khh / moments.count)
    gram_KPP = cross.unflatten(2, (2, half)).sum(2).unflatten(1, (2, half)).sum(1)
    losses = dropped_sums(gram_KPP, order_KP).sum(0).repeat_interleave(2)[: size + 1]
    return QKPairs(losses=losses, energy=float(losses[0]), order_KP=order_KP)


def dropped_sums(gram: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``out[..., n] = sum of gram over order[n:] x order[n:]`` for n = 0..P, for (..., P, P) and (..., P)."""
    size = gram.shape[-1]
    rows = gram.gather(-2, order.unsqueeze(-1).expand(gram.shape))
    ordered = rows.gather(-1, order.unsqueeze(-2).expand(gram.shape))
    corner = ordered.flip(-1, -2).cumsum(-1).cumsum(-2).diagonal(dim1=-2, dim2=-1).flip(-1)
    return torch.cat([corner, corner.new_zeros((*corner.shape[:-1], 1))], dim=-1)[..., : size + 1]
