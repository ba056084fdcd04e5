"""Queries and keys on both sides of the rotation, and what the hybrid (``benchmarks.hybrid``) needs of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from solvers.a3 import metric
from solvers.model.surgery import OpenModel


@dataclass(frozen=True)
class Heads:
    """Sampled rows of one layer over one batch: queries (B, H, R, h), keys (B, K, T, h), attention (B, H, R, T)."""

    query: torch.Tensor
    key: torch.Tensor
    turned_query: torch.Tensor
    turned_key: torch.Tensor
    weights: torch.Tensor
    scale: float
    """½ s², and as much as sampling left out."""

    def features(self, head: int) -> torch.Tensor:
        """u of all pairs, then v, (B, R, T, F)."""
        group = self.query.shape[1] // self.key.shape[1]
        q_a, q_b = self.turned_query[:, head].unsqueeze(2).chunk(2, dim=-1)
        k_a, k_b = self.turned_key[:, head // group].unsqueeze(1).chunk(2, dim=-1)
        return torch.cat([q_a * k_a + q_b * k_b, q_b * k_a - q_a * k_b], dim=-1)


@dataclass(frozen=True)
class Overlaps:
    """Sums over tokens of one layer: ``features_HFhh`` of ½ s² q Cov_p(f, k)', ``keys_Hhh`` of ½ s² Cov_p(k)."""

    features_HFhh: torch.Tensor
    keys_Hhh: torch.Tensor


def applies(opened: OpenModel) -> bool:
    """Whether every head is rotated whole, without norms or soft caps of its own."""
    attention = opened.attention(0)
    fully_rotated = attention.pairs is not None and 2 * attention.pairs.shape[1] == attention.qk_rank
    return fully_rotated and attention.q_norm is None and attention.softcap is None


@torch.no_grad()
def heads_by_layer(opened: OpenModel, batches: Sequence[torch.Tensor]) -> Iterator[list[Heads]]:
    """Layer 0, 1, ... over batches of token ids (B, T)."""
    hidden, calls = opened.starts(batches)
    for index in range(len(opened.source)):
        attention, heads = opened.attention(index), []
        for number, call in enumerate(calls):
            caught: dict[str, torch.Tensor] = {}
            handles = [
                getattr(attention, name).register_forward_hook(_keep(caught, name))
                for name in ("q_proj", "k_proj")
            ]
            hidden[number] = opened.advance(hidden[number], call, index, index + 1)
            for handle in handles:
                handle.remove()
            heads.append(_heads(attention, caught, call[index]))
        yield heads


def _keep(caught: dict[str, torch.Tensor], name: str) -> Any:
    return lambda module, args, output: caught.__setitem__(name, output)


def _heads(attention: Any, caught: dict[str, torch.Tensor], call: dict[str, Any]) -> Heads:
    query = caught["q_proj"].unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    key = caught["k_proj"].unflatten(-1, (attention.kv_heads, -1)).transpose(1, 2)
    rows_R = metric.sampled_rows(query.shape[2])
    turned_q, turned_k = attention.rotated(query, key, call["position_embeddings"])
    weights, _ = metric.attention_rows(attention, turned_q, turned_k, rows_R, metric.additive_mask(call))
    scale = attention.scaling**2 / 2 * query.shape[2] / len(rows_R)
    return Heads(query[:, :, rows_R], key, turned_q[:, :, rows_R], turned_k, weights, scale)


def overlaps(layer: Sequence[Heads]) -> Overlaps:
    """Over all batches of a layer."""
    heads, size = layer[0].query.shape[1], layer[0].query.shape[-1]
    features = torch.zeros(heads, size, size, size, dtype=torch.float64)
    keys = torch.zeros(heads, size, size, dtype=torch.float64)
    for batch in layer:
        for head in range(heads):
            weight = batch.weights[:, head].unsqueeze(-1)
            plain = batch.key[:, head * batch.key.shape[1] // heads].unsqueeze(1)
            centred = (plain - weight.mT @ plain) * weight  # (B, R, T, h)
            covariance = batch.features(head).mT @ centred  # Cov(f, k) needs one of the two centred
            rows = batch.query[:, head].flatten(0, 1)
            features[head] += (
                batch.scale * torch.einsum("rh,rfk->fhk", rows, covariance.flatten(0, 1)).double()
            )
            keys[head] += batch.scale * (plain.mT @ centred).double().sum((0, 1))
    return Overlaps(features, keys)
