"""Rotary queries and keys with some pairs rotated and the rest in dimensions without rotation.

With p pairs kept at the gains θ, the error of a head's scores in the softmax's metric (``solvers.a3.metric``) is δ = Σ_f c_f f,
where f are the features u and v of all pairs and c = e − θ. A term without rotation, q' Δ k on queries and keys before their
rotation, can take a part of it back: a pair of low frequency hardly turns within the context. What is lost then is

    E_m[ ½ s² Var_p(δ − q_m' Δ k) ] = c'Mc − 2 <Δ, X> + E_m[ ½ s² q_m' Δ Cov_p(k) Δ' q_m ],
    X = Σ_f c_f E_m[ ½ s² q_m Cov_p(f, k)' ].

*Directions.* With the Kronecker approximation that ``solvers.a3.qk_gains`` makes for unrotated heads the last term is
``tr(Δ' Q Δ C)``, Q = E[q q'], C = E_m[½ s² Cov_p(k)], and the best Δ of rank s is the truncated SVD of ``Q^-½ X C^-½``. Query
heads of a group share the key's factor: their matrices are stacked over the group's mean C.

*Gains.* That approximation may serve for directions, not for their size or loss: queries are not independent of the
covariance that their own attention leaves, and the loss it promises can be far below the true one. So for given directions
a_j, b_j the gains of kept pairs and of the s products (q a_j)(k b_j) are solved together, for each query head, in the exact
metric: the error is linear in all of them. The loss so found is exact too, for the rows it is taken over.

*Division.* A rank r is divided, r = 2p + s, as makes that exact loss least, the same for all heads of a layer; ``a3+``, s = 0,
is one of the candidates. Pairs are kept in one of two orders: the elimination's, or by what an unrotated term of full rank
could *not* take over of a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.hybrid_rows import Heads, overlaps
from solvers.a3.linalg import damped, damping, factor, solve_damped
from solvers.a3.moments import LayerMoments
from solvers.a3.qk import QKBases, QKPairs
from solvers.a3.qk_gains import QKGains
from solvers.weights import LayerWeights

_CANDIDATES = 4
"""Divisions of a rank that free something, evenly spread; besides them the one that frees nothing."""
_EXACT_BATCHES = 6
"""Batches of the fit windows that gains and losses in the exact metric are taken over."""


@dataclass(frozen=True)
class QKHybrid:
    """One rank's division: pairs with gains (α, β), and directions that are not rotated."""

    loss: float
    """½ s² Var_p of the scores' error on the tokens of the exact metric, a mean over them, summed over heads."""
    pairs: QKPairs
    gains_H2p: torch.Tensor
    """α of the kept pairs, then β, in ascending order of the pairs."""
    bases: QKBases
    free: int
    """Directions, s."""

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` dimensions per query and key head, the rank this was solved for; rotated ones first."""
        cut, free = self.pairs.apply(weights, rank - self.free), self.bases.apply(weights, self.free)
        alpha_Hp, beta_Hp = self.gains_H2p.chunk(2, dim=1)

        def query(rotated: torch.Tensor | None, free: torch.Tensor | None) -> torch.Tensor | None:
            if rotated is None or free is None:
                return None
            a, b = rotated.chunk(2, dim=-1)
            return torch.cat([alpha_Hp * a + beta_Hp * b, alpha_Hp * b - beta_Hp * a, free], dim=-1)

        def key(rotated: torch.Tensor | None, free: torch.Tensor | None) -> torch.Tensor | None:
            return None if rotated is None or free is None else torch.cat([rotated, free], dim=-1)

        joined = {
            "q_DHr": query(cut.q_DHr, free.q_DHr),
            "q_bias_Hr": query(cut.q_bias_Hr, free.q_bias_Hr),
            "k_DKr": key(cut.k_DKr, free.k_DKr),
            "k_bias_Kr": key(cut.k_bias_Kr, free.k_bias_Kr),
        }
        return replace(cut, **joined)  # type: ignore[arg-type]


def solve_hybrid(
    moments: LayerMoments, layer: Sequence[Heads], eliminated: QKGains, ranks: Iterable[int]
) -> dict[int, QKHybrid | QKGains]:
    """The solution of each of these (even) ranks.

    Args:
        layer: all batches whose moments these are.
        eliminated: ``a3+``'s own solution; it is also the answer where freeing dimensions loses more.
    """
    sums, count, size = overlaps(layer), moments.count, moments.k_Khh.shape[-1]
    kv_heads, share = len(moments.k_Khh), damping(size, count)
    keys = sums.keys_Hhh.unflatten(0, (kv_heads, -1)).mean(1) / count
    _, whiten_q = factor(damped(moments.q_Hhh / count, share))
    _, whiten_k = factor(damped(keys, share))
    key_of_head = torch.arange(len(whiten_q)) * kv_heads // len(whiten_q)
    white_HFhh = whiten_q.mT.unsqueeze(1) @ (sums.features_HFhh / count) @ whiten_k[key_of_head].unsqueeze(1)
    exact = _Exact(layer[:: max(1, len(layer) // _EXACT_BATCHES)])
    elimination = eliminated.pairs
    orders = (
        elimination,
        replace(elimination, order_KP=_irreplaceable(eliminated.gram_HFF, white_HFhh, kv_heads)),
    )
    solutions: dict[int, QKHybrid | QKGains] = {}
    for rank in ranks:
        nothing = QKBases(elimination.losses, 0.0, whiten_q[..., :0], whiten_k[..., :0])
        least = exact.refit(elimination, rank // 2, nothing).loss
        solutions[rank] = eliminated
        spread = {number * rank // (2 * _CANDIDATES) for number in range(_CANDIDATES)} | {rank // 2 - 1}
        for pair_count in sorted(spread):
            for pairs in orders:
                missing = _missing(eliminated, pairs, pair_count)
                bases = _directions(missing, rank - 2 * pair_count, white_HFhh, whiten_q, whiten_k)
                hybrid = exact.refit(pairs, pair_count, bases)
                if hybrid.loss < least:
                    least, solutions[rank] = hybrid.loss, hybrid
    return solutions


def _irreplaceable(gram_HFF: torch.Tensor, white_HFhh: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(K, P): pairs by what is lost of each when the best unrotated term stands for it alone, most first."""
    half = gram_HFF.shape[1] // 2
    own = gram_HFF.diagonal(dim1=1, dim2=2)[:, :half]
    lost = own - white_HFhh[:, :half].square().sum((2, 3))
    return lost.unflatten(0, (kv_heads, -1)).sum(1).argsort(dim=1, descending=True, stable=True)


def _columns(pairs: QKPairs, pair_count: int, heads: int) -> torch.Tensor:
    """(H, 2p): features u and v of the kept pairs, in ascending order of the pairs."""
    kv_heads, half = pairs.order_KP.shape
    ascending = pairs.order_KP[:, :pair_count].sort(dim=1).values
    return torch.cat([ascending, ascending + half], dim=1).repeat_interleave(heads // kv_heads, 0)


def _missing(eliminated: QKGains, pairs: QKPairs, pair_count: int) -> torch.Tensor:
    """c = e − θ of every query head (H, F) when only pairs are kept, at their own best gains."""
    gram, missing = eliminated.gram_HFF, []
    for of_head, columns in zip(gram, _columns(pairs, pair_count, len(gram)), strict=True):
        remainder = torch.zeros(len(of_head), dtype=of_head.dtype)
        remainder[: len(remainder) // 2] = 1
        remainder[columns] = 0
        share = damping(len(columns), eliminated.count)
        change = solve_damped(
            of_head[columns][:, columns], (of_head[columns] @ remainder).unsqueeze(1), share
        )
        remainder[columns] = -change.squeeze(1)
        missing.append(remainder)
    return torch.stack(missing)


def _directions(
    missing_HF: torch.Tensor,
    free: int,
    white_HFhh: torch.Tensor,
    whiten_q: torch.Tensor,
    whiten_k: torch.Tensor,
) -> QKBases:
    """The first ``free`` directions of ``Q^-½ X C^-½``."""
    white_Hhh = torch.einsum("hf,hfqk->hqk", missing_HF, white_HFhh)
    stacked = white_Hhh.unflatten(0, (len(whiten_k), -1)).flatten(1, 2)
    _, sigma, right = torch.linalg.svd(stacked, full_matrices=False)
    right_Khs = right.mT[..., :free]
    return QKBases(
        losses=sigma.square().sum(0),
        energy=float(sigma.square().sum()),
        to_query_Hhh=whiten_q @ white_Hhh @ right_Khs.repeat_interleave(len(whiten_q) // len(whiten_k), 0),
        to_key_Khh=whiten_k @ right_Khs,
    )


class _Exact:
    """The metric on some batches: features centred under the attention and weighed by its roots."""

    def __init__(self, layer: Sequence[Heads]) -> None:
        self._layer, self._heads = layer, layer[0].query.shape[1]
        self._features = [
            [_weighed(batch, head, batch.features(head)) for batch in layer] for head in range(self._heads)
        ]
        self._tokens = sum(batch.key.shape[0] * batch.key.shape[2] for batch in layer)

    def refit(self, pairs: QKPairs, pair_count: int, bases: QKBases) -> QKHybrid:
        """Gains of the kept pairs and sizes of the directions, together, and what is then lost."""
        size, free = pairs.order_KP.shape[1], bases.to_key_Khh.shape[-1]
        loss, gains, sizes = 0.0, [], []
        for head, columns in enumerate(_columns(pairs, pair_count, self._heads)):
            gram = torch.zeros(1 + len(columns) + free, 1 + len(columns) + free, dtype=torch.float64)
            for batch, features in zip(self._layer, self._features[head], strict=True):
                target = features[:, :size].sum(1, keepdim=True)
                flat = torch.cat([target, features[:, columns], _products(batch, head, bases)], dim=1)
                gram += batch.scale / self._tokens * (flat.T @ flat).double()
            # Around the gains 1 of the kept pairs, as ``a3+`` does, and around no directions at all.
            remainder = torch.zeros(len(gram), dtype=torch.float64)
            remainder[0], remainder[1 : 1 + pair_count] = 1, -1
            share = damping(len(gram) - 1, self._tokens)
            remainder[1:] -= solve_damped(gram[1:, 1:], (gram[1:] @ remainder).unsqueeze(1), share).squeeze(1)
            loss += float(remainder @ gram @ remainder)
            gains.append(-remainder[1 : 1 + len(columns)])
            sizes.append(-remainder[1 + len(columns) :])
        sized = replace(bases, to_query_Hhh=bases.to_query_Hhh * torch.stack(sizes).unsqueeze(1))
        return QKHybrid(loss, pairs, torch.stack(gains), sized, free)


def _weighed(batch: Heads, head: int, values: torch.Tensor) -> torch.Tensor:
    """(B, R, T, n) centred under a row's attention, times its root: plain products are then covariances. (B R T, n)."""
    weight = batch.weights[:, head].unsqueeze(-1)
    return ((values - weight.mT @ values) * weight.sqrt()).flatten(0, 2)


def _products(batch: Heads, head: int, bases: QKBases) -> torch.Tensor:
    """(q a_j)(k b_j) of all directions, weighed."""
    of_key = head * len(bases.to_key_Khh) // len(bases.to_query_Hhh)
    query = batch.query[:, head] @ bases.to_query_Hhh[head].to(batch.query.dtype)
    key = batch.key[:, of_key] @ bases.to_key_Khh[of_key].to(batch.key.dtype)
    return _weighed(batch, head, query.unsqueeze(2) * key.unsqueeze(1))
