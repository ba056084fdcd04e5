"""Peers that choose ranks by loss (KFAC-SVD with LEMS, ZS-SVD, SVD-LLM V2), against their formulas written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil, log
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers import kfac, lems, moments, once, svd_llm, zero_sum
from benchmarks.peers.blocks import Work, blocks
from benchmarks.peers.spectra import Key, spectrum, whitened
from benchmarks.peers.stream import Stream, Tails
from tests.benchmarks.peer_models import FAMILIES, logits, symmetric_root, truncated
from tests.support.models import token_ids


def seeded(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loss(model: Any, windows: torch.Tensor) -> torch.Tensor:
    """Summed cross entropy of the next tokens."""
    shown = model(windows).logits[:, :-1].log_softmax(-1)
    return -shown.gather(2, windows[:, 1:, None]).sum()


def test_both_sides_weigh_the_error() -> None:
    W, X, Y = seeded(9, 7), seeded(40, 7, seed=1), seeded(50, 9, seed=2)
    A, G = X.T @ X, Y.T @ Y
    found = spectrum(W, torch.linalg.cholesky(A), torch.linalg.cholesky(G), dtype=torch.float64)

    def lost(matrix: torch.Tensor) -> float:
        return float(torch.trace((W - matrix) @ A @ (W - matrix).T @ G))

    left, right = found.factors(3)
    root_A, root_G = symmetric_root(A), symmetric_root(G)
    best = torch.linalg.inv(root_G) @ truncated(root_G @ W @ root_A, 3) @ torch.linalg.inv(root_A)
    torch.testing.assert_close(left @ right, best)
    assert lost(left @ right) == pytest.approx(float(found.lost()[3]))
    for seed in range(20):  # no other matrix of the rank is better, near or far
        for size in (1e-3, 1.0):
            other = (left + size * seeded(9, 3, seed=seed)) @ (right + size * seeded(3, 7, seed=seed + 50))
            assert lost(other) > lost(left @ right)
    whole = found.factors(7)
    torch.testing.assert_close(whole[0] @ whole[1], W)


def test_gradients_of_single_tokens_are_clipped_to_the_windows_mean() -> None:
    gradients = torch.zeros(1, 4, 2, dtype=torch.float64)
    gradients[0, 0, 0], gradients[0, 1, 1], gradients[0, 2, 0] = 100.0, 1.0, 0.001
    mean = (100 + 1 + 0.001) / 3
    norms = kfac.clipped(gradients).norm(dim=2)[0]
    torch.testing.assert_close(norms, torch.tensor([100.0, 0.1 * mean, 0.1 * mean, 0.0], dtype=torch.float64))
    gradients[0, 3, 0] = 1e5
    assert kfac.clipped(torch.cat([gradients] + [gradients[:, 1:2]] * 60, 1)).norm(dim=2).max() < 1e5


@pytest.mark.parametrize("family", FAMILIES)
def test_output_moments_are_those_of_the_raw_gradients(models: dict[str, Any], family: str) -> None:
    model, windows = moments.copied(models[family]), token_ids()
    found = kfac.output_moments(models[family], windows)
    for index, block in enumerate(blocks(model)):
        for name, slot in block.slots.items():
            caught: list[torch.Tensor] = []
            handle = slot.module.register_forward_hook(
                lambda module, args, out, into=caught: into.append(out)
            )
            total = 0.0
            for window in windows:
                caught.clear()
                (whole,) = torch.autograd.grad(loss(model, window[None]), caught)
                own = whole.reshape(len(window), -1)
                own = own if slot.rows is None else own[:, slot.rows]
                edge = int(len(window) / 8)
                inner = own[edge : len(window) - edge]
                norms = inner.norm(dim=1)
                assert norms.max() < 10 * norms.mean()
                inner = inner * (norms.clamp_min(0.1 * norms.mean()) / norms)[:, None]
                total = total + inner.T @ inner
            handle.remove()
            torch.testing.assert_close(found[index, name], total)


def test_shrinkage_keeps_the_trace_and_makes_singular_moments_definite() -> None:
    second = torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    root = kfac.shrunk_root(second, 0.3)
    torch.testing.assert_close(root @ root.T, 0.7 * second + 0.3 * torch.eye(4, dtype=torch.float64))


def test_depth_bias_is_the_normalised_tail_of_the_powers() -> None:
    alpha, gamma, layers = 1.3, 4.0, 6

    def tail(layer: int) -> float:
        return sum(1 / (k + 1) ** alpha for k in range(layer, layers))

    for layer in range(layers):
        share = (tail(layer) - tail(layers - 1)) / (tail(0) - tail(layers - 1))
        assert lems.depth_bias(layer, layers, alpha, gamma) == pytest.approx(1 + gamma * share)
    assert [lems.depth_bias(layer, 3, 0.0, 2.0) for layer in range(3)] == pytest.approx([3.0, 2.0, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_the_program_finds_the_least_error_within_the_limit(seed: int) -> None:
    costs = [(seeded(4, seed=seed * 10 + group).abs() * 50).int().tolist() for group in range(5)]
    errors = [seeded(4, seed=seed * 10 + group + 99).abs().mul(1e-5).tolist() for group in range(5)]
    limit = 1.2 * sum(map(min, costs)) + 20
    picked = lems.choose(costs, errors, limit)
    least = min(
        sum(error[n] for error, n in zip(errors, each, strict=True))
        for each in product(range(4), repeat=5)
        if sum(cost[n] for cost, n in zip(costs, each, strict=True)) <= limit
    )
    assert sum(cost[n] for cost, n in zip(costs, picked, strict=True)) <= limit
    assert sum(error[n] for error, n in zip(errors, picked, strict=True)) == pytest.approx(least)
    with pytest.raises(ValueError, match="the least this search can store is"):
        lems.choose(costs, errors, sum(map(min, costs)) - 1)


def test_error_models_pass_through_the_measured_point() -> None:
    found = spectrum(seeded(60, 40), torch.eye(40, dtype=torch.float64), dtype=torch.float64)
    whole = 24  # 60 x 40 / (60 + 40)
    share, energy = lems.energy_shares(found, whole), found.sigma.square()
    assert share[2] == 1  # a tenth of 24, rounded down
    for rank in (3, 10, 22):
        assert float(share[rank]) == pytest.approx(float(energy[rank:].sum() / energy[2:].sum()))
    assert lems.candidates((60, 40), 0.8) == list(range(8, 23))  # from 0.3 to 0.95 of 24
    assert lems.candidates((576, 576), 0.8) == list(range(88, 274, 8))  # of 288, in steps of 8
    assert lems.candidates((576, 576), 0.4)[0] == 32


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_point_is_the_kl_of_the_whole_model_with_one_matrix_cut(
    models: dict[str, Any], family: str
) -> None:
    model, windows = models[family], token_ids()
    found = kfac.kfac(model, windows)
    measured = lems.measured_losses(model, windows, found)
    cut = moments.copied(model)
    left, right = found[1, "o"].factors(1)
    blocks(cut)[1].slots["o"].write(left @ right, None)
    searched = lems.search_windows(windows)
    with torch.no_grad():
        p, q = (
            each(searched).logits[:, int(searched.shape[1] / 8) :].div(0.6).log_softmax(-1)
            for each in (model, cut)
        )
    assert measured[1, "o"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()))
    assert measured.keys() == {(index, name) for index, name, _ in Work(model).matrices()}


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_one_by_one_are_the_model(models: dict[str, Any], family: str) -> None:
    model, windows = models[family], token_ids()
    stream, raw = Stream(model, windows), moments.gathered(model, windows)
    for expected in raw:
        for kind, moment in stream.moments().items():
            torch.testing.assert_close(moment.outer, expected[kind].outer)
        stream.step()
    tails = Tails(model, windows)
    for index in range(2):
        torch.testing.assert_close(torch.cat(list(tails.logits(model, index))), logits(model))
    torch.testing.assert_close(logits(model), logits(moments.copied(model)))  # nothing stays exchanged


def test_a_singular_values_change_is_the_slope_of_the_loss(models: dict[str, Any]) -> None:
    model, windows = models["gpt2"], token_ids()[:4]
    found, work = whitened(model, windows), Work(model)
    change = zero_sum.changes(found, work, zero_sum.mean_gradients(moments.copied(model), windows))
    key, number = (1, "up"), 3
    each, count = found[key], windows[:, 1:].numel()
    term = each.sigma[number] * torch.outer(each.left[:, number], each.right[number])
    losses = []
    for sign in (1, -1):
        other = moments.copied(model)
        slot = blocks(other)[1].slots["up"]
        slot.write(slot.weight + sign * 1e-4 * term, None)
        with torch.no_grad():
            losses.append(float(loss(other, windows)) / count)
    slope = (losses[0] - losses[1]) / 2e-4
    assert float(change[key][number]) == pytest.approx(-slope, rel=1e-4)


def literal_zero_sum(
    sizes: dict[Key, tuple[int, int]], change: dict[Key, list[float]], limit: float, floor: float
) -> dict[Key, int | None]:
    """The rule by looking at all candidates at every step."""
    ranks = {key: len(each) for key, each in change.items()}
    total = 0.0

    def size(key: Key, rank: int) -> int:
        out, inner = sizes[key]
        return min(rank * (out + inner), out * inner)

    while sum(size(key, rank) for key, rank in ranks.items()) > limit:
        least = {key: max(1, ceil(floor * zero_sum.break_even(sizes[key]))) for key in ranks}
        open_ones = {key: change[key][rank - 1] for key, rank in ranks.items() if rank > least[key]}
        wanted = {key: each for key, each in open_ones.items() if (each >= 0) == (total <= 0)} or open_ones
        key = min(wanted, key=lambda key: (abs(wanted[key]), key))
        total += wanted[key]
        ranks[key] -= 1
    return {
        key: rank if size(key, rank) < sizes[key][0] * sizes[key][1] else None for key, rank in ranks.items()
    }


@pytest.mark.parametrize(("keep", "floor"), [(0.9, 0.0), (0.6, 0.0), (0.4, 0.3)])
def test_zero_sum_drops_the_smallest_change_of_the_sign_that_balances(keep: float, floor: float) -> None:
    sizes: dict[Key, tuple[int, int]] = {
        (0, "q"): (8, 8),
        (0, "up"): (14, 8),
        (1, "q"): (8, 8),
        (1, "v"): (4, 8),
    }
    change = {key: seeded(min(size), seed=seed) for seed, (key, size) in enumerate(sizes.items())}
    dense = sum(out * inner for out, inner in sizes.values())
    found = zero_sum.zero_sum(sizes, change, keep * dense, floor)
    lists = {key: each.tolist() for key, each in change.items()}
    assert found == literal_zero_sum(sizes, lists, keep * dense, floor)
    with pytest.raises(ValueError, match="the least ZS-SVD can store"):
        zero_sum.zero_sum(sizes, change, 10, floor)


def test_v2_removes_by_the_inverse_logarithm() -> None:
    lost = [10.0, 100.0, 1000.0]
    removed = svd_llm.removed_shares(lost, 0.2)
    inverse = [1 / log(each) for each in lost]
    assert removed == pytest.approx([0.6 * each / sum(inverse) for each in inverse])
    assert sum(removed) / 3 == pytest.approx(0.2)
    assert svd_llm.removed_shares([10.0, 0.5], 0.2) == [0.2, 0.2]


def test_what_is_shared_is_made_once_and_read_from_its_folder(models: dict[str, Any], tmp_path: Path) -> None:
    model, windows, made = models["llama"], token_ids(), []

    def making(value: Any) -> Callable[[], Any]:
        def make() -> Any:
            made.append(value)
            return value

        return make

    with once.folder(tmp_path):
        first = whitened(model, windows)
        assert once.once("number", model, windows, making(1)) == 1
        assert once.once("number", model, windows, making(2)) == 1
        again = whitened(model, windows.clone())
        assert again is not first
        for key, each in first.items():
            assert torch.equal(again[key].left, each.left)
            assert torch.equal(again[key].sigma, each.sigma)
        assert once.once("number", model, windows, making(3)) == 1  # from its file
        once.forget()
        assert once.once("number", model, windows, making(3)) == 1
    assert once.once("number", model, token_ids(), making(4)) == 4
    assert made == [1, 4]
