"""What was tried on top of a3+, on tiny models: the Fisher matrix, its choices, the hybrid's divisions, whole rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks import tried
from benchmarks.fisher import Fisher, fisher, root, sampled, solve_weighed
from benchmarks.hybrid import QKHybrid, solve_hybrid
from benchmarks.hybrid_rows import applies, heads_by_layer, overlaps
from solvers.a3.compress import LayerSolution, solve_layer
from solvers.a3.metric import sampled_rows
from solvers.a3.moments import LayerMoments, collect
from solvers.a3.qk_gains import QKGains
from solvers.model.surgery import OpenModel, open_model
from solvers.weights import LayerWeights
from tests.benchmarks.test_ablation import small
from tests.support.models import tiny, token_ids

IDS = token_ids(6, 24)


@pytest.fixture(scope="module")
def llama() -> OpenModel:
    return open_model(tiny("llama", kv_heads=4))


@pytest.fixture(scope="module")
def moments(llama: OpenModel) -> list[LayerMoments]:
    return collect(llama, IDS)


@pytest.fixture(scope="module")
def plain(llama: OpenModel, moments: list[LayerMoments]) -> LayerSolution:
    return solve_layer(llama.source[1], moments[1], tried.ONE_SHOT)


def inputs(opened: OpenModel, index: int) -> dict[str, torch.Tensor]:
    """What o_proj and down_proj of a layer read, one row a token."""
    caught: dict[str, torch.Tensor] = {}
    attention, mlp = opened.attention(index), opened.layer(index).mlp
    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: caught.__setitem__(name, args[0]))
        for name, module in (("z", attention.o_proj), ("x", mlp.down_proj))
    ]
    hidden, calls = opened.start(IDS)
    opened.advance(hidden, calls, 0, index + 1)
    for handle in handles:
        handle.remove()
    return {name: states.detach().flatten(0, 1) for name, states in caught.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "qwen2"])
def test_fisher_is_the_literal_sum_of_outer_products(family: str) -> None:
    stock = tiny(family)
    found = fisher(open_model(tiny(family)), IDS)
    part = {
        "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
        "qwen2": ("model.layers", "self_attn.o_proj", "mlp.down_proj"),
        "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj"),
        "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
        "opt": ("model.decoder.layers", "self_attn.out_proj", "fc2"),
    }[family]
    for index, layer in enumerate(found):
        for name, matrix in ((part[1], layer.attention_DD), (part[2], layer.mlp_DD)):
            kept: list[torch.Tensor] = []
            module = stock.get_submodule(f"{part[0]}.{index}.{name}")
            handle = module.register_full_backward_hook(lambda m, i, out, kept=kept: kept.append(out[0]))
            for row in IDS:  # one window, one token at a time
                logits = stock(row[None], use_cache=False).logits[0, :-1]
                functional.cross_entropy(logits, row[1:], reduction="sum").backward()
            handle.remove()
            literal = torch.zeros_like(matrix)
            for gradient in torch.cat(kept).reshape(-1, len(matrix)):
                literal += torch.outer(gradient, gradient)
            torch.testing.assert_close(matrix, literal / IDS.numel(), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
            values = torch.linalg.eigvalsh(matrix)
            assert values[0] > -1e-9 * values[-1]


def test_windows_are_sampled_evenly() -> None:
    windows = torch.arange(100 * 256).view(100, 256)
    assert sampled(windows)[:, 0].div(256).tolist() == [n * 100 // 32 for n in range(32)]
    assert len(sampled(windows[:7])) == 7


def test_the_identity_chooses_what_a3_plus_chooses(
    llama: OpenModel, moments: list[LayerMoments], plain: LayerSolution
) -> None:
    size = llama.source[1].down_mD.shape[1]
    same = Fisher(torch.eye(size).double(), 3 * torch.eye(size).double())
    weighed = solve_weighed(llama.source[1], moments[1], tried.ONE_SHOT, same, plain)
    ranks = {"qk": 4, "ov": 3, "mlp": 17}
    torch.testing.assert_close(root(same.mlp_DD), same.attention_DD, rtol=0, atol=1e-15)
    assert weighed.mlp.order_m.equal(plain.mlp.order_m)
    one, other = weighed.compressed(**ranks), plain.compressed(**ranks)
    for name, tensor in other.tensors().items():
        torch.testing.assert_close(vars(one)[name], tensor, rtol=0, atol=1e-9)


def test_weighing_lowers_the_error_that_it_minimises(llama: OpenModel, moments: list[LayerMoments]) -> None:
    """Literal least squares on the tokens: every head's own output factor, and down_proj on the kept neurons."""
    found = fisher(llama, IDS)[1]
    # So few tokens call for much damping, which is no part of the literal error.
    many = replace(moments[1], count=10**9)
    plain = solve_layer(llama.source[1], many, tried.ONE_SHOT)
    weighed = solve_weighed(llama.source[1], many, tried.ONE_SHOT, found, plain)
    read, dense = inputs(llama, 1), plain.dense
    roots = root(found.attention_DD), root(found.mlp_DD)

    def of_heads(solution: LayerSolution, rank: int) -> float:
        bases = getattr(solution.ov, "bases", solution.ov)
        total = 0.0
        for z, down, output in zip(
            read["z"].unflatten(1, (4, -1)).unbind(1), bases.to_value_Khh, dense.o_HrD, strict=True
        ):
            target = z @ output
            values = z @ down[:, :rank]
            error = target - values @ torch.linalg.lstsq(values, target).solution
            total += float((error @ roots[0]).square().sum())
        return total

    def without(neuron: int) -> torch.Tensor:
        return torch.tensor([n for n in range(40) if n != neuron])

    def of_neurons(kept: torch.Tensor) -> float:
        values, target = read["x"][:, kept], read["x"] @ dense.down_mD
        error = target - values @ torch.linalg.lstsq(values, target).solution
        return float((error @ roots[1]).square().sum())

    for rank in range(1, dense.ov_rank):
        assert of_heads(weighed, rank) < of_heads(plain, rank)
    # A greedy order is exact for the first neuron that goes, among all of them; further on it need not win at every rank.
    assert int(torch.tensor([of_neurons(without(n)) for n in range(40)]).argmin()) == weighed.mlp.order_m[-1]
    sums = [sum(of_neurons(each.mlp.order_m[:r]) for r in range(1, 40)) for each in (weighed, plain)]
    assert sums[0] < sums[1]


def literal_scores(opened: OpenModel, index: int) -> torch.Tensor:
    """(B, H, T, T) before the softmax scale."""
    attention = opened.attention(index)
    hidden, calls = opened.start(IDS)
    query, key, _ = attention.project(opened.layer(index).input_layernorm(hidden))
    query, key = attention.rotated(query, key, calls[index]["position_embeddings"])
    return query @ key.repeat_interleave(attention.heads // attention.kv_heads, dim=1).mT


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_a_hybrid_loses_what_it_says_and_less_than_a3_plus(kv_heads: int) -> None:
    opened = open_model(tiny("llama", kv_heads=kv_heads, attention_bias=True))
    assert applies(opened)
    layer, heads = collect(opened, IDS)[0], next(heads_by_layer(opened, (IDS[:4], IDS[4:])))
    solution = solve_layer(opened.source[0], layer, tried.ONE_SHOT)
    assert isinstance(solution.qk, QKGains)
    dense, scaling = literal_scores(opened, 0), opened.attention(0).scaling
    tokens = IDS.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    weights = (dense * scaling).masked_fill(~causal, -torch.inf).softmax(-1)

    def loss(cut: LayerWeights) -> float:
        opened.put(0, cut)
        error = literal_scores(opened, 0) - dense
        assert opened.model(IDS, use_cache=False).logits.isfinite().all()
        opened.reset(0)
        variance = (weights * error**2).sum(-1) - (weights * error).sum(-1) ** 2
        return float(variance[:, :, sampled_rows(tokens)].mean((0, 2)).sum()) * scaling**2 / 2

    freed = 0
    for rank, found in solve_hybrid(layer, heads, solution.qk, (2, 4, 6)).items():
        if isinstance(found, QKHybrid):
            freed += 1
            cut = found.apply(solution.dense, rank)
            assert cut.qk_rank == rank
            assert loss(cut) == pytest.approx(found.loss, rel=1e-9)
            assert found.loss < loss(solution.compressed(qk=rank))
        else:
            assert found is solution.qk
    assert freed


@torch.no_grad()
def test_overlaps_are_covariances_under_the_attention() -> None:
    """½ s² Cov_p(δ, q'Δk) of the sampled rows, from scores that are rotated pair by pair as complex numbers."""
    opened = open_model(tiny("llama", kv_heads=2))
    found, attention = overlaps(next(heads_by_layer(opened, (IDS,)))), opened.attention(0)
    hidden, calls = opened.start(IDS)
    normed = opened.layer(0).input_layernorm(hidden)
    query, key, _ = attention.project(normed)
    key = key.repeat_interleave(2, dim=1)
    tokens, half = IDS.shape[1], attention.qk_rank // 2
    cos, sin = (table[0, :, :half] for table in calls[0]["position_embeddings"])
    turn = torch.complex(cos, sin)
    complex_q, complex_k = (torch.complex(*states.chunk(2, dim=-1)) * turn for states in (query, key))
    # u and v of the pairs are the real and the imaginary part of q conj k.
    products = torch.einsum("bhmp,bhnp->bhmnp", complex_q, complex_k.conj())
    features = torch.cat([products.real, products.imag], dim=-1)
    scores = attention.scaling * features[..., :half].sum(-1)
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    seed = torch.Generator().manual_seed(3)
    gains = torch.randn(4, 2 * half, generator=seed, dtype=torch.float64)
    delta = torch.randn(4, 2 * half, 2 * half, generator=seed, dtype=torch.float64)
    error = torch.einsum("hf,bhmnf->bhmn", gains, features)
    free = torch.einsum("bhmi,hij,bhnj->bhmn", query, delta, key)
    means = (weights * error).sum(-1) * (weights * free).sum(-1)
    covariance = ((weights * error * free).sum(-1) - means)[:, :, sampled_rows(tokens)]
    literal = covariance.sum((0, 2)) * attention.scaling**2 / 2 * tokens / len(sampled_rows(tokens))
    ours = torch.einsum("hf,hfij,hij->h", gains, found.features_HFhh, delta)
    torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)


def test_every_variant_is_measured_and_shown(tmp_path: Path) -> None:
    rows = tried.rows_of(small("llama", tmp_path / "llama")) + tried.rows_of(small("gpt2", tmp_path / "gpt2"))
    shown = {(row["model"], row["variant"]) for row in rows}
    fishers = ("a3+", "fisher ov", "fisher mlp", "fisher")
    assert shown == {
        *(("llama", name) for name in (*fishers, "hybrid")),
        *(("gpt2", name) for name in (*fishers, "no intercept")),
    }
    lines = tried.table(rows).splitlines()
    assert len(lines) == 2 + len(tried.VARIANTS) * 3 * 2
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert {line.split("|")[3].strip() for line in lines[2:]} == {"one-shot", "feedback"}
