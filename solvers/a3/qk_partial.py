"""Queries and keys of which a part is rotated (GPT-NeoX, some Phi-3): pairs there, bases of the rest, one loss for both.

A head is [first halves of P pairs | second halves | u unrotated dimensions], so a score is a sum of two: over the pairs, where
A3's App. B.5 chooses (arXiv 2505.12942v4), and over the rest, where Thm 3.2 and section 3.4 are exact (``solvers.a3.qk``). With
p pairs and s directions kept, the error is e_rot + e_free and its mean square over all (query, key) pairs of tokens

    L(p, s) = E[e_rot^2] + E[e_free^2] + 2 E[e_rot e_free].

The first two are the parts' own losses. With directions a_j, b_j of the bases (e_free = sum over dropped j of (q a_j)(k b_j))
and queries and keys taken independently, as everywhere here, the cross term is

    E[e_rot e_free] = sum over dropped dimensions c, directions j of E[q_c q a_j] E[k_c k b_j],

which the moments of the rotated heads hold: nothing is neglected. Both parts are nested orders of their own; how a rank is
divided, r = 2p + s, is the best division for that rank by L, the same in all heads of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from solvers.a3.moments import LayerMoments
from solvers.a3.qk import QKBases, QKPairs
from solvers.a3.qk_gains import QKGains, solve_qk_steps
from solvers.a3.steps import Steps
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class QKPartial:
    """Pairs and bases, and how many of each a rank keeps."""

    losses: torch.Tensor
    """(h + 1,): loss when r = 0..h dimensions are kept."""
    energy: float
    pairs: QKPairs | QKGains
    bases: QKBases
    kept_pairs: torch.Tensor
    """(h + 1,): pairs at every rank; the rest of the rank is unrotated."""

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` dimensions per query and key head, rotated ones first."""
        pair_count, half = (
            int(self.kept_pairs[rank]),
            (weights.pairs.shape[1] if weights.pairs is not None else 0),
        )
        rotated = self.pairs.apply(_part(weights, slice(0, 2 * half)), 2 * pair_count)
        free = self.bases.apply(_part(weights, slice(2 * half, None)), rank - 2 * pair_count)

        def join(name: str) -> torch.Tensor | None:
            rotated_part, free_part = getattr(rotated, name), getattr(free, name)
            return None if rotated_part is None else torch.cat([rotated_part, free_part], dim=-1)

        changed = {name: join(name) for name in ("q_DHr", "k_DKr", "q_bias_Hr", "k_bias_Kr")}
        return replace(weights, **changed, pairs=rotated.pairs)  # type: ignore[arg-type]


def _part(weights: LayerWeights, dims: slice) -> LayerWeights:
    """The layer with these dimensions of its queries and keys."""
    names = ("q_DHr", "k_DKr", "q_bias_Hr", "k_bias_Kr")
    parts = {name: getattr(weights, name) for name in names}
    return replace(weights, **{name: t[..., dims] for name, t in parts.items() if t is not None})


def _part_moments(moments: LayerMoments, dims: slice, *, rotated: bool) -> LayerMoments:
    def cut(gram: torch.Tensor | None) -> torch.Tensor | None:
        return None if gram is None else gram[..., dims, dims]

    return replace(
        moments,
        q_Hhh=moments.q_Hhh[..., dims, dims],
        k_Khh=moments.k_Khh[..., dims, dims],
        q_rotated_Khh=cut(moments.q_rotated_Khh) if rotated else None,
        k_rotated_Khh=cut(moments.k_rotated_Khh) if rotated else None,
    )


def solve_qk_partial(weights: LayerWeights, moments: LayerMoments, steps: Steps) -> QKPartial:
    """Pairs, bases and the best division of every rank, for one layer. ``weights`` are the dense ones.

    In the softmax's metric (``steps.qk_metric``) the two parts' losses are added and their cross term is left out.
    """
    assert weights.pairs is not None
    half = weights.pairs.shape[1]
    pairs = solve_qk_steps(_part_moments(moments, slice(0, 2 * half), rotated=True), steps)
    bases = solve_qk_steps(_part_moments(moments, slice(2 * half, None), rotated=False), steps)
    assert isinstance(pairs, QKPairs | QKGains)
    assert isinstance(bases, QKBases)
    # pairs.losses is by dimensions, at even ranks.
    losses_ps = pairs.losses[::2, None] + bases.losses[None, :]
    if not steps.qk_metric:
        order = pairs.pairs if isinstance(pairs, QKGains) else pairs
        losses_ps = losses_ps + 2 * _cross(moments, order, bases)
    free, size = bases.losses.shape[0] - 1, weights.qk_rank
    losses, kept_pairs = [], []
    for rank in range(size + 1):
        fewest, largest = max(0, -(-(rank - free) // 2)), min(half, rank // 2)
        options = torch.arange(fewest, largest + 1, device=losses_ps.device)
        values = losses_ps[options, rank - 2 * options]
        best = int(values.argmin())
        losses.append(values[best])
        kept_pairs.append(options[best])
    return QKPartial(
        losses=torch.stack(losses),
        energy=float(losses_ps[0, 0]),
        pairs=pairs,
        bases=bases,
        kept_pairs=torch.stack(kept_pairs),
    )


def _cross(moments: LayerMoments, pairs: QKPairs, bases: QKBases) -> torch.Tensor:
    """E[e_rot e_free] for p = 0..P pairs and s = 0..u directions kept, (P + 1, u + 1), summed over heads."""
    half = pairs.order_KP.shape[1]
    group = bases.to_query_Hhh.shape[0] // bases.to_key_Khh.shape[0]
    assert moments.q_rotated_Khh is not None
    assert moments.k_rotated_Khh is not None
    # A group's query heads share one basis, and the rotated moments are sums over the group.
    to_query_Khh = bases.to_query_Hhh[::group]
    query = moments.q_rotated_Khh[:, : 2 * half, 2 * half :] / moments.count @ to_query_Khh
    key = moments.k_rotated_Khh[:, : 2 * half, 2 * half :] / moments.count @ bases.to_key_Khh
    by_pair_KPu = (query * key).unflatten(1, (2, half)).sum(1)
    ordered = by_pair_KPu.gather(1, pairs.order_KP.unsqueeze(-1).expand(by_pair_KPu.shape)).sum(0)
    dropped = ordered.flip(0, 1).cumsum(0).cumsum(1).flip(0, 1)
    return torch.nn.functional.pad(dropped, (0, 1, 0, 1))
