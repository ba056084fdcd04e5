"""The softmax's own metric for score errors, as second moments of what a query/key rank can change.

For one query row with attention p over the keys, an error δ in its scores changes the attention by KL(p ‖ p') = ½ Var_p(δ) to
second order, and not at all where δ is the same for every key. So the loss of a head is

    E over rows m of  ½ Var_(n~p_m)( δ_mn ).

*Rotary.* With queries and keys rotated and each frequency pair read as a complex number, the score is
``s Σ_pairs Re(q conj k)``. A pair scaled by a complex gain α + iβ on the query contributes ``α u + β v`` with
``u = q_a k_a + q_b k_b`` and ``v = q_b k_a − q_a k_b``. Hence δ is linear in the gains and the loss is the quadratic form of

    M = E_m[ ½ s² Cov_(n~p_m)( (u, v)_mn ) ]      (h, h): u of all pairs, then v of all pairs.

*Unrotated.* δ_mn = s q_m' Δ k_n with one matrix Δ: the loss is ``½ s² E_m[ q_m' Δ Cov_(p_m)(k) Δ' q_m ]``. Taking rows'
queries as independent of their covariances (a Kronecker approximation) leaves the two moments ``E[q q']`` and
``C = ½ s² E_m[Cov_(p_m)(k)]``, with which Theorem 3.2 applies unchanged, C in place of the moment of the keys.

Rows are sampled, evenly spread over each window; sums are scaled to all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

ROWS = 16
"""Query rows per window: half and three times as many gave the same end-to-end losses to within a few per cent."""

_ROWS_AT_ONCE = 4
"""Sampled rows whose keys are looked at together: fewer have fewer keys for nothing, and smaller products."""

_CHUNK = 1 << 22
"""Features of score errors that are held at a time: more is no faster."""


def sampled_rows(tokens: int, limit: int | None = None) -> torch.Tensor:
    """(R,) evenly spread row indices of a window; the same for every window, so that moments of batches add up."""
    count = min(ROWS if limit is None else limit, tokens)
    return ((torch.arange(count, dtype=torch.float64) + 0.5) * tokens / count).long()


def additive_mask(call: dict[str, Any]) -> torch.Tensor | None:
    """A layer's mask from its keyword arguments; linear position biases are added to it."""
    mask, bias = call.get("attention_mask"), call.get("position_bias")
    if bias is None:
        return mask
    assert mask is not None
    return bias[None, ..., -mask.shape[-1] :].masked_fill(mask, -torch.inf)


def attention_rows(
    attention: Any, query: torch.Tensor, key: torch.Tensor, rows_R: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention probabilities (B, H, R, T) of the sampled rows, and the slope of a soft cap where there is one.

    Args:
        query, key: (B, H, T, r) and (B, K, T, r) as they enter the scores (rotated where the model rotates).
        mask: the layer's own, (B or 1, 1 or H, T, T), boolean or additive; None is plainly causal.
    """
    index, tokens = rows_R.to(query.device), query.shape[2]
    grouped = query[:, :, index].unflatten(1, (attention.kv_heads, -1))
    scores = (grouped @ key.unsqueeze(2).mT).flatten(1, 2) * attention.scaling
    slope = None
    cap = getattr(attention, "softcap", None)
    if cap is not None:
        squashed = torch.tanh(scores / cap)
        scores, slope = squashed * cap, 1 - squashed.square()
    if mask is None:
        allowed = torch.arange(tokens, device=query.device) <= index[:, None]
        scores = scores.masked_fill(~allowed, -torch.inf)
    else:
        rows_mask = mask[:, :, index, :tokens]
        scores = (
            scores.masked_fill(~rows_mask, -torch.inf)
            if rows_mask.dtype == torch.bool
            else scores + rows_mask.to(scores)
        )
    return scores.softmax(-1), slope


def pair_gram(
    attention: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Sum over rows of ½ s² Cov(u, v) for query (B, H, T, h) and key (B, K, T, h), their first 2P dimensions rotated.

    Returns:
        (H, 2P, 2P), float64.
    """
    rows_R, width = sampled_rows(query.shape[2]), 2 * attention.pairs.shape[1]
    probabilities, slope = attention_rows(attention, query, key, rows_R, mask)
    count, tokens = probabilities.shape[2:]
    query, key = query[:, :, rows_R.to(query.device), :width], key[..., :width]
    total = query.new_zeros(*query.shape[1:2], width, width, dtype=torch.float64)
    parts = _attended(probabilities)
    for b, heads, keys in _chunks(query.shape[1], key, count):
        for rows, span in parts:
            q_a, q_b = query[b, heads, rows].unsqueeze(2).chunk(2, dim=-1)
            k_a, k_b = key[b, keys, span].unsqueeze(1).chunk(2, dim=-1)
            features = torch.cat([q_a * k_a + q_b * k_b, q_b * k_a - q_a * k_b], dim=-1)  # (n, R, T, 2P)
            weight = probabilities[b, heads, rows, span].unsqueeze(-1)
            if slope is not None:
                features *= slope[b, heads, rows, span].unsqueeze(-1)
            features -= weight.mT @ features
            flat = features.mul_(weight.sqrt()).flatten(1, 2)
            total[heads] += (flat.mT @ flat).double()
    return total * (attention.scaling**2 / 2 * tokens / count)


def key_covariance(
    attention: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Sum over rows of ½ s² Cov_p(k) for query (B, H, T, h) and key (B, K, T, h), over the u dimensions not rotated.

    Returns:
        (H, u, u), float64.
    """
    probabilities, slope = attention_rows(attention, query, key, sampled_rows(query.shape[2]), mask)
    assert slope is None, "no family caps the scores of heads that are not rotated whole"
    key = key[..., 0 if attention.pairs is None else 2 * attention.pairs.shape[1] :]
    count, tokens = probabilities.shape[2:]
    total = query.new_zeros(*query.shape[1:2], key.shape[-1], key.shape[-1], dtype=torch.float64)
    parts = _attended(probabilities)
    for b, heads, keys in _chunks(query.shape[1], key, count):
        for rows, span in parts:
            weight, key_nTu = probabilities[b, heads, rows, span], key[b, keys, span]
            mean = weight @ key_nTu
            centred = (key_nTu.unsqueeze(1) - mean.unsqueeze(2)).mul_(weight.sqrt().unsqueeze(-1))
            flat = centred.flatten(1, 2)
            total[heads] += (flat.mT @ flat).double()
    return total * (attention.scaling**2 / 2 * tokens / count)


def _attended(probabilities: torch.Tensor) -> list[tuple[slice, slice]]:
    """Rows of (B, H, R, T), a few at a time, and the keys that any of them attends to: behind a causal mask half of all keys
    have no weight, beyond a sliding window most.
    """
    parts = []
    for start in range(0, probabilities.shape[2], _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        keys = probabilities[:, :, rows].amax((0, 1, 2)).nonzero()
        parts.append((rows, slice(int(keys[0]), int(keys[-1]) + 1)))
    return parts


def _chunks(heads: int, key: torch.Tensor, rows: int) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """Sequence, query heads and their key heads, as many as have at most ``_CHUNK`` features (rows, T, h) together."""
    batch, kv_heads, tokens, size = key.shape
    count = max(1, _CHUNK // (rows * tokens * max(1, size)))
    of_head = torch.arange(heads, device=key.device) // (heads // kv_heads)
    for b in range(batch):
        for start in range(0, heads, count):
            yield b, slice(start, start + count), of_head[start : start + count]
