"""Low-rank peers and MoDeGPT against the formulas of their papers, written out in float64 on raw activations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from benchmarks.peers import PEERS, asvd, low_rank, modegpt, moments, svd_llm
from benchmarks.peers.blocks import READS, Work, blocks
from tests.benchmarks.peer_models import activations, logits, symmetric_root, truncated
from tests.support.models import token_ids


def test_whitened_truncation_loses_the_dropped_squares_and_beats_plain_svd(models: dict[str, Any]) -> None:
    raw = activations(models["llama"], 0)
    for name, slot in blocks(models["llama"])[0].slots.items():
        W, X = slot.weight, raw[name]
        second = X.T @ X / len(X)
        left, right = svd_llm.whitened_factors(W, 5, second)
        lost = ((X @ (W - left @ right).T) ** 2).sum() / len(X)
        dropped = torch.linalg.svdvals(W @ symmetric_root(second))[5:].square().sum()
        torch.testing.assert_close(lost, dropped, rtol=1e-6, atol=1e-12)
        plain = ((X @ (W - truncated(W, 5)).T) ** 2).sum() / len(X)
        assert lost < 0.999 * plain


def test_whitening_survives_moments_without_full_rank() -> None:
    X = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    X[:, 3] = 0
    W = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left, right = svd_llm.whitened_factors(W, 6, X.T @ X / 5)
    torch.testing.assert_close(X @ (left @ right).T, X @ W.T, rtol=0, atol=1e-4)


def test_the_update_is_least_squares_on_what_the_compressed_model_sees(models: dict[str, Any]) -> None:
    model = models["qwen2"]
    plain, _ = PEERS["svd_llm_w"](model, token_ids(), 0.6)
    updated, _ = PEERS["svd_llm"](model, token_ids(), 0.6)
    before = Work(moments.copied(model))
    for name, slot in blocks(updated)[0].slots.items():  # layer 1 dense behind the updated layer 0
        before.blocks[0].slots[name].write(slot.weight, slot.bias)
    seen = activations(before.model, 1)
    for name, slot in blocks(model)[1].slots.items():
        X, W = seen[name], slot.weight
        new, old = blocks(updated)[1].slots[name].weight, blocks(plain)[1].slots[name].weight
        basis = torch.linalg.svd(old, full_matrices=False).Vh[: torch.linalg.matrix_rank(old)]
        best = torch.linalg.lstsq(X @ basis.T, X @ W.T).solution
        torch.testing.assert_close(X @ new.T, X @ basis.T @ best, rtol=0, atol=1e-7)
        assert (X @ (W - new).T).norm() < (X @ (W - old).T).norm()


def test_asvd_scales_by_the_root_of_the_mean_absolute_input(models: dict[str, Any]) -> None:
    slot, X = blocks(models["gpt2"])[0].slots["up"], activations(models["gpt2"], 0)["up"]
    moment = moments.collect(models["gpt2"], token_ids())[0]["mlp"]
    left, right = asvd.scaled_factors(slot.weight, 4, moment)
    S = torch.diag(X.abs().mean(0).sqrt() + 1e-6)
    torch.testing.assert_close(left @ right, truncated(slot.weight @ S, 4) @ torch.linalg.inv(S))


def test_low_rank_at_full_rank_is_the_matrix(models: dict[str, Any]) -> None:
    for name, slot in blocks(models["llama"])[0].slots.items():
        moment = moments.collect(models["llama"], token_ids())[0][READS[name]]
        full = min(slot.weight.shape)
        for scale in (None, low_rank.whitening(moment.second), moment.mean_absolute.sqrt()):
            left, right = low_rank.truncate(slot.weight, full, scale)
            torch.testing.assert_close(left @ right, slot.weight, rtol=0, atol=1e-7)


def test_strs_cuts_at_one_threshold() -> None:
    up, down, query = (0, "up"), (0, "down"), (1, "q")
    entries = [
        (3.0, query, 0.9),
        (1.0, up, 0.9),
        (1.5, up, 0.4),
        (2.0, down, 0.5),
        (1.2, down, 0.9),
        (9.0, query, 0.4),
    ]

    def fits(total: float) -> Any:
        return lambda ratios: sum(ratios.values()) <= total

    keys = [up, down, query]
    assert asvd.threshold(entries, keys, fits(3.0)) == {up: 1.0, down: 1.0, query: 1.0}
    assert asvd.threshold(entries, keys, fits(2.8)) == {up: 0.9, down: 0.9, query: 1.0}
    assert asvd.threshold(entries, keys, fits(2.2)) == {up: 0.4, down: 0.5, query: 1.0}
    assert asvd.threshold(entries, keys, fits(1.85)) == {up: 0.4, down: 0.5, query: 0.9}
    with pytest.raises(ValueError, match="out of its reach"):
        asvd.threshold(entries, keys, fits(1.2))


def test_nystroem_is_the_papers_formula(models: dict[str, Any]) -> None:
    down, X = blocks(models["llama"])[1].slots["down"].weight, activations(models["llama"], 1)["down"]
    C = X.T @ X / len(X)
    kept = modegpt.choose_neurons(down, C, 25)
    S = torch.eye(len(C), dtype=torch.float64)[:, kept]
    literal = torch.linalg.inv(S.T @ C @ S) @ S.T @ C @ down.T
    torch.testing.assert_close(modegpt.nystroem(down, C, kept).T, literal, rtol=0, atol=1e-8)

    def error(indices: torch.Tensor) -> float:
        solution = torch.linalg.lstsq(X[:, indices], X @ down.T).solution
        return float((X[:, indices] @ solution - X @ down.T).square().sum())

    for ridge in modegpt.RIDGES:
        inverse = torch.linalg.inv(C + ridge * C.diagonal().mean() * torch.eye(len(C), dtype=torch.float64))
        scores = (C @ inverse).diagonal()
        torch.testing.assert_close(modegpt.leverage(C, ridge * float(C.diagonal().mean())), scores)
        assert error(kept) <= error(scores.topk(25).indices) * (1 + 1e-9)


def test_vo_and_qk_follow_the_papers_roots_of_the_correlation(models: dict[str, Any]) -> None:
    model = models["llama"]  # no biases: the paper's setting; two query heads per value head
    block, X = blocks(model)[0], activations(model, 0)["v"]
    root = symmetric_root(X.T @ X / len(X))
    moment = moments.collect(model, token_ids())[0]["attn"]
    size, W_V, W_O = block.head_dim, block.slots["v"].weight.T, block.slots["o"].weight.T
    for head in range(block.kv_heads):
        part = slice(head * size, (head + 1) * size)
        stacked = torch.cat([W_O[i * size : (i + 1) * size] for i in (2 * head, 2 * head + 1)], dim=1)
        A, B = modegpt.vo_factors(moment.output(block.slots["v"])[part, part], stacked.T, 3)
        product = W_V[:, part] @ A.T @ B.T @ stacked
        torch.testing.assert_close(
            root @ product, truncated(root @ W_V[:, part] @ stacked, 3), rtol=0, atol=1e-9
        )
    norms_q = (root @ block.slots["q"].weight.T).square().sum(0).view(2, 2, size).sum(1)
    norms_k = (root @ block.slots["k"].weight.T).square().sum(0).view(2, size)
    torch.testing.assert_close(modegpt.qk_scores(block, moment), norms_q * norms_k)


def test_allocation_is_the_entropy_smoothed_optimum() -> None:
    influence = torch.tensor([0.3, 0.1, 0.5, 0.2], dtype=torch.float64)
    phi = modegpt.sparsities(influence, 0.2, 0.4)
    torch.testing.assert_close(phi.mean(), torch.tensor(0.2, dtype=torch.float64))
    gradient = -influence - 0.4 * (
        phi.log() + 1
    )  # of sum s (1 - phi) + eps H(phi): equal in all layers at the optimum
    torch.testing.assert_close(gradient, gradient.mean().expand(4))


def test_block_influence_is_one_minus_the_mean_cosine(models: dict[str, Any]) -> None:
    model = models["llama"]
    caught: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda m, a: caught.append(a[0])) for layer in model.model.layers
    ]
    handles.append(model.model.norm.register_forward_pre_hook(lambda m, a: caught.append(a[0])))
    logits(model)
    for handle in handles:
        handle.remove()
    literal = [1 - ((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).mean() for x, y in pairwise(caught)]
    torch.testing.assert_close(modegpt.block_influence(model, token_ids()), torch.stack(literal))
