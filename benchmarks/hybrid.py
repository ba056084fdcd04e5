"""Rotary queries and keys with some pairs rotated and the rest in dimensions without rotation.

With p pairs kept at the gains θ, the error of a head's scores in the softmax's metric (``solvers.metric``) is δ = Σ_f c_f f,
where f are the features u and v of all pairs and c = e − θ. A term without rotation, q' Δ k on queries and keys before their
rotation, can take a part of it back: a pair of low frequency hardly turns within the context. What is lost then is

    E_m[ ½ s² Var_p(δ − q_m' Δ k) ] = c'Mc − 2 <Δ, X> + E_m[ ½ s² q_m' Δ Cov_p(k) Δ' q_m ],
    X = Σ_f c_f E_m[ ½ s² q_m Cov_p(f, k)' ].

With the Kronecker approximation that ``solvers.qk_gains`` makes for unrotated heads the last term is ``tr(Δ' Q Δ C)``,
Q = E[q q'], C = E_m[½ s² Cov_p(k)], and the best Δ of rank s is the truncated SVD of ``Q^-½ X C^-½``, which lowers the loss by
the sum of its s largest σ². Query heads of a group share the key's factor: their matrices are stacked over the group's mean C.

A rank r is divided, r = 2p + s, as makes that estimate least, the same for all heads of a layer. Pairs are kept in one of two
orders, whichever promises less: the elimination's, or by what an unrotated term of full rank could *not* take over of a pair.
s = 0 with the elimination's order is ``a3+`` itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from solvers import metric
from solvers.linalg import damped, damping, factor
from solvers.moments import LayerMoments
from solvers.qk import QKBases
from solvers.qk_gains import QKGains
from solvers.qk_partial import QKPartial
from solvers.surgery import OpenModel
from solvers.weights import LayerWeights


@dataclass(frozen=True)
class Overlaps:
    """Sums over tokens of one layer: ``features_HFhh`` of ½ s² q Cov_p(f, k)', ``keys_Hhh`` of ½ s² Cov_p(k)."""

    features_HFhh: torch.Tensor
    keys_Hhh: torch.Tensor


def applies(opened: OpenModel) -> bool:
    """Whether every head is rotated whole, without norms or soft caps of its own."""
    attention = opened.attention(0)
    whole = attention.pairs is not None and 2 * attention.pairs.shape[1] == attention.qk_rank
    return whole and attention.q_norm is None and attention.softcap is None


@torch.no_grad()
def overlaps(opened: OpenModel, batches: tuple[torch.Tensor, ...]) -> list[Overlaps]:
    """Of every layer over batches of token ids (B, T), on the rows that ``solvers.metric`` samples."""
    total: list[Overlaps | None] = [None] * len(opened.source)
    for batch in batches:
        hidden, calls = opened.start(batch)
        for index, before in enumerate(total):
            caught: dict[str, torch.Tensor] = {}
            attention = opened.attention(index)
            handles = [
                getattr(attention, name).register_forward_hook(_keep(caught, name))
                for name in ("q_proj", "k_proj")
            ]
            hidden = opened.advance(hidden, calls, index, index + 1)
            for handle in handles:
                handle.remove()
            query = caught["q_proj"].unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            key = caught["k_proj"].unflatten(-1, (attention.kv_heads, -1)).transpose(1, 2)
            found = _overlaps(attention, query, key, calls[index])
            if before is not None:
                found = Overlaps(before.features_HFhh + found.features_HFhh, before.keys_Hhh + found.keys_Hhh)
            total[index] = found
    return [each for each in total if each is not None]


def _keep(caught: dict[str, torch.Tensor], name: str) -> Any:
    return lambda module, args, output: caught.__setitem__(name, output)


def _overlaps(attention: Any, query: torch.Tensor, key: torch.Tensor, call: dict[str, Any]) -> Overlaps:
    rows_R = metric.sampled_rows(query.shape[2])
    turned_q, turned_k = attention.rotated(query, key, call["position_embeddings"])
    weights, _ = metric.attention_rows(attention, turned_q, turned_k, rows_R, metric.additive_mask(call))
    group, size = attention.heads // attention.kv_heads, query.shape[-1]
    features = query.new_zeros(attention.heads, size, size, size, dtype=torch.float64)
    keys = query.new_zeros(attention.heads, size, size, dtype=torch.float64)
    for head in range(attention.heads):
        q_a, q_b = turned_q[:, head, rows_R].unsqueeze(2).chunk(2, dim=-1)
        k_a, k_b = turned_k[:, head // group].unsqueeze(1).chunk(2, dim=-1)
        feature = torch.cat([q_a * k_a + q_b * k_b, q_b * k_a - q_a * k_b], dim=-1)  # (B, R, T, F)
        weight, plain = weights[:, head].unsqueeze(-1), key[:, head // group].unsqueeze(1)
        centred = (plain - weight.mT @ plain) * weight  # (B, R, T, h)
        covariance = (feature.mT @ centred).double()  # Cov(f, k) needs one of the two centred
        features[head] = torch.einsum("brh,brfk->fhk", query[:, head, rows_R].double(), covariance)
        keys[head] = (plain.mT @ centred).double().sum((0, 1))
    scale = attention.scaling**2 / 2 * query.shape[2] / len(rows_R)
    return Overlaps(features * scale, keys * scale)


@dataclass(frozen=True)
class QKHybrid:
    """For every even rank its division, and the pairs and bases of that division."""

    losses: torch.Tensor
    """(h / 2 + 1,): the estimate at ranks 0, 2, .., h."""
    parts: tuple[QKPartial, ...]
    """By rank / 2."""
    kept_pairs: tuple[int, ...]

    def apply(self, weights: LayerWeights, rank: int) -> LayerWeights:
        """The layer with ``rank`` (even) dimensions per query and key head, rotated ones first."""

        def twice(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else torch.cat([tensor, tensor], dim=-1)

        # A head beside its unrotated copy is a head that is rotated in part.
        names = ("q_DHr", "k_DKr", "q_bias_Hr", "k_bias_Kr")
        both = replace(weights, **{name: twice(getattr(weights, name)) for name in names})  # type: ignore[arg-type]
        return self.parts[rank // 2].apply(both, rank)


def solve_hybrid(moments: LayerMoments, found: Overlaps, eliminated: QKGains) -> QKHybrid:
    """All even ranks of one layer; ``eliminated`` is ``a3+``'s own solution, in the same moments."""
    count, size = moments.count, moments.k_Khh.shape[-1]
    kv_heads, half = len(moments.k_Khh), size // 2
    share = damping(size, count)
    keys = found.keys_Hhh.unflatten(0, (kv_heads, -1)).mean(1) / count
    _, whiten_q = factor(damped(moments.q_Hhh / count, share))
    _, whiten_k = factor(damped(keys, share))
    white_HFhh = (
        whiten_q.mT.unsqueeze(1)
        @ (found.features_HFhh / count)
        @ whiten_k.repeat_interleave(len(whiten_q) // kv_heads, 0).unsqueeze(1)
    )
    orders = (eliminated.pairs.order_KP, _irreplaceable(eliminated, white_HFhh, kv_heads))
    best: dict[int, tuple[float, int, QKGains, QKBases]] = {}
    for order in orders:
        pairs = replace(eliminated, pairs=replace(eliminated.pairs, order_KP=order))
        for kept in range(half, -1, -1):  # a rank's first candidate is a3+ itself, which stays among equals
            loss, bases = _free(pairs, kept, white_HFhh, whiten_q, whiten_k)
            for number in range(kept, half + 1):
                value = loss - float(bases.losses[0] - bases.losses[2 * (number - kept)])
                if number not in best or value < best[number][0]:
                    best[number] = value, kept, pairs, bases
    chosen = [best[number] for number in range(half + 1)]
    return QKHybrid(
        losses=torch.tensor([each[0] for each in chosen], dtype=torch.float64),
        parts=tuple(
            QKPartial(bases.losses, bases.energy, pairs, bases, torch.full((2 * number + 1,), kept))
            for number, (_, kept, pairs, bases) in enumerate(chosen)
        ),
        kept_pairs=tuple(each[1] for each in chosen),
    )


def _irreplaceable(pairs: QKGains, white_HFhh: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(K, P): pairs by what is lost of each when the best unrotated term stands for it alone, most first."""
    half = pairs.pairs.order_KP.shape[1]
    own = pairs.gram_HFF.diagonal(dim1=1, dim2=2)[:, :half]
    lost = own - white_HFhh[:, :half].square().sum((2, 3))
    return lost.unflatten(0, (kv_heads, -1)).sum(1).argsort(dim=1, descending=True, stable=True)


def _free(
    pairs: QKGains, kept: int, white_HFhh: torch.Tensor, whiten_q: torch.Tensor, whiten_k: torch.Tensor
) -> tuple[float, QKBases]:
    """What the first ``kept`` pairs lose with their gains, and bases for the rest of the scores."""
    missing_HF = _missing(pairs, kept, len(whiten_k))
    loss = float(torch.einsum("hf,hfg,hg->", missing_HF, pairs.gram_HFF, missing_HF))
    white_Hhh = torch.einsum("hf,hfqk->hqk", missing_HF, white_HFhh)
    heads = len(white_Hhh)
    stacked = white_Hhh.unflatten(0, (len(whiten_k), -1)).flatten(1, 2)
    _, sigma, right = torch.linalg.svd(stacked, full_matrices=False)
    taken = sigma.square().sum(0).cumsum(0)
    left = torch.cat([taken.new_zeros(1), taken])
    right_Hhh = right.mT.repeat_interleave(heads // len(whiten_k), 0)
    return loss, QKBases(
        losses=left[-1] - left,
        energy=float(left[-1]),
        to_query_Hhh=whiten_q @ white_Hhh @ right_Hhh,
        to_key_Khh=whiten_k @ right.mT,
    )


def _missing(pairs: QKGains, kept: int, kv_heads: int) -> torch.Tensor:
    """c = e − θ of every query head, (H, F): read off what the gains do to a query that is 1 in all first halves."""
    heads, size = pairs.gram_HFF.shape[:2]
    half = size // 2
    probe = pairs.gram_HFF.new_zeros(1, heads, size)
    probe[..., :half] = 1
    key = probe[:, :kv_heads]
    nothing = probe.new_zeros(1, 0)
    layer = LayerWeights(
        q_DHr=probe, k_DKr=key, v_DKr=key, o_HrD=probe.view(heads, size, 1), up_Dm=nothing, down_mD=nothing.T
    )
    cut = pairs.apply(layer, 2 * kept)
    assert cut.pairs is not None
    alpha, minus_beta = cut.q_DHr[0].chunk(2, dim=-1)
    spots = cut.pairs.long().repeat_interleave(heads // kv_heads, 0)
    missing = probe[0].clone()
    missing.scatter_(1, spots, 1 - alpha)
    return missing.scatter_(1, spots + half, minus_beta)
