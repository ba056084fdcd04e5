"""The steps of ``a3+`` against literal least squares on the tokens themselves, in float64.

The literal side takes activations from hooks on the *stock* model (``tests.solvers.test_literal``) and solves with
``torch.linalg.lstsq`` or explicit inverses; it never touches the second moments that the solvers work from.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.a3 import metric, mlp, mlp_elimination, ov_joint
from solvers.a3 import moments as moments_module
from solvers.a3.compress import LayerSolution, in_float64, solve_layer
from solvers.a3.linalg import damping, solve_damped
from solvers.a3.mlp_elimination import eliminate
from solvers.a3.qk_gains import eliminate_pairs
from solvers.a3.steps import A3_PLUS, Steps
from solvers.model.surgery import open_model
from solvers.weights import LayerWeights
from tests.solvers.test_literal import LAYER, PARTIAL, PLAIN, ROTARY, Literal, literal
from tests.support.models import CASES as EVERY_CASE
from tests.support.models import case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), EVERY_CASE, ids=case_id)
MLP = Steps(mlp_order=True, mlp_refit=True)
OV = Steps(ov_heads=True, ov_refit=True)
QK = Steps(qk_metric=True, qk_gains=True)


def solved(family: str, options: dict[str, Any], steps: Steps) -> tuple[Literal, LayerSolution]:
    case = literal(family, options)
    found = moments_module.collect(open_model(tiny(family, **options)), token_ids())[LAYER]
    return case, solve_layer(case.weights, found, steps)


def undamped(features: int, count: int) -> float:
    """In place of the rule, so that a refit is the literal least-squares problem."""
    return 1e-13


def psd(size: int, seed: int, rows: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(rows or 3 * size, size, generator=generator, dtype=torch.float64)
    data = data * torch.logspace(0, -1.5, size, dtype=torch.float64)
    return data.T @ data / len(data)


# MLP


def schur(inverse: torch.Tensor, gram: torch.Tensor, dropped: torch.Tensor) -> float:
    """tr(W_D' [(R^-1)_DD]^-1 W_D) from R^-1 and W W'."""
    corner = torch.linalg.inv(inverse[dropped][:, dropped])
    return float((corner * gram[dropped][:, dropped]).sum())


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 24), block=st.integers(1, 9), seed=st.integers(0, 10_000))
def test_elimination_is_greedy_and_its_losses_are_the_schur_complements(
    size: int, block: int, seed: int
) -> None:
    moment, gram, share = psd(size, seed), psd(size, seed + 1), 1e-6
    order, losses = eliminate(moment, gram, share, block=block)
    assert sorted(order.tolist()) == list(range(size))
    inverse = torch.linalg.inv(moment + share * moment.diagonal().diag())
    for rank in range(size + 1):
        assert float(losses[rank]) == pytest.approx(schur(inverse, gram, order[rank:]), rel=1e-6, abs=1e-12)
    for rank in range(size, 0, -1):
        best = min(
            schur(inverse, gram, torch.cat([order[rank:], order[index : index + 1]])) for index in range(rank)
        )
        assert float(losses[rank - 1]) <= best * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize(("panel", "block"), [(1, 4), (3, 1), (3, 2), (7, 30), (64, 5)])
def test_elimination_in_panels_is_exact(panel: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of several panels, with dead rows left in them and moved out of them."""
    monkeypatch.setattr(mlp_elimination, "_PANEL", panel)
    moment, gram, share = psd(26, 1), psd(26, 2), 1e-4
    inverse = torch.linalg.inv(moment + share * moment.diagonal().diag())
    order, losses = eliminate(moment.clone(), gram.clone(), share, block=block)
    assert sorted(order.tolist()) == list(range(26))
    for rank in range(27):
        assert float(losses[rank]) == pytest.approx(schur(inverse, gram, order[rank:]), rel=1e-8)


@pytest.mark.parametrize("panel", [1, 7, 1000])
def test_the_paper_s_losses_in_panels_are_traces(panel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "_PANEL", panel)
    case, solution = solved("llama", {"kv_heads": 2}, Steps())
    order, losses = solution.mlp.order_m, solution.losses("mlp")
    for rank in (0, 1, 6, 7, 8, 25, len(order)):
        lost = case.mlp_x[:, order[rank:]] @ case.weights.down_mD[order[rank:]]
        assert float(losses[rank]) == pytest.approx(float(lost.square().sum()) / len(lost), rel=1e-9)


@pytest.mark.parametrize(("family", "options"), [ROTARY[1], PLAIN[0], PLAIN[1]])
@pytest.mark.parametrize("rank", [3, 17, 39])
def test_mlp_refit_is_least_squares_on_the_tokens(
    family: str, options: dict[str, Any], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp_elimination, "damping", undamped)
    case, solution = solved(family, options, MLP)
    kept = solution.mlp.order_m[:rank].sort().values  # type: ignore[union-attr]
    cut = solution.compressed(mlp=rank)
    x, target = case.mlp_x, case.mlp_x @ case.weights.down_mD
    features = x[:, kept]
    if case.weights.down_bias_D is not None:
        features = torch.cat([features, torch.ones(len(x), 1)], dim=1)
        assert cut.down_bias_D is not None
        ours = x[:, kept] @ cut.down_mD + cut.down_bias_D - case.weights.down_bias_D
    else:
        ours = x[:, kept] @ cut.down_mD
    least = (target - features @ torch.linalg.lstsq(features, target, driver="gelsd").solution).square().sum()
    paper = (target - x[:, kept] @ case.weights.down_mD[kept]).square().sum()
    error = (target - ours).square().sum()
    assert float(error) == pytest.approx(float(least), rel=1e-4)
    assert error <= paper + 1e-24 * target.square().sum()  # a dead neuron costs nothing but rounding


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN])
def test_the_whole_mlp_step_loses_less_than_a3(family: str, options: dict[str, Any]) -> None:
    """Over all ranks: a greedy order proves nothing for a single one."""
    case, solution = solved(family, options, MLP)
    x, target = case.mlp_x, case.mlp_x @ case.weights.down_mD
    sums = [0.0, 0.0]
    for rank in range(2, 40, 5):
        cut = solution.compressed(mlp=rank)
        kept = solution.mlp.order_m[:rank].sort().values  # type: ignore[union-attr]
        shift = 0 if cut.down_bias_D is None else cut.down_bias_D - case.weights.down_bias_D
        paper = case.solution.mlp.order_m[:rank]
        sums[0] += float((target - x[:, kept] @ cut.down_mD - shift).square().sum())
        sums[1] += float((target - x[:, paper] @ case.weights.down_mD[paper]).square().sum())
    assert sums[0] < 0.9 * sums[1]


# OV


def outputs(case: Literal, cut: Any, z: torch.Tensor) -> torch.Tensor:
    """o_proj's output in the compressed layer; z (H, N, h) are the dense attention-weighted values."""
    change = torch.linalg.lstsq(case.weights.v_DKr.flatten(0, 0).permute(1, 0, 2), cut.v_DKr.permute(1, 0, 2))
    group = case.weights.heads // case.weights.kv_heads
    bases = change.solution.repeat_interleave(group, dim=0)
    return torch.einsum("hnr,hrd->nd", z @ bases, cut.o_HrD)


def attended_values(case: Literal) -> torch.Tensor:
    group = case.weights.heads // case.weights.kv_heads
    values = case.weights.v_DKr.permute(1, 0, 2).repeat_interleave(group, dim=0)
    z = case.attended @ values
    if case.weights.v_bias_Kr is not None:
        z = z + case.weights.v_bias_Kr.repeat_interleave(group, dim=0).unsqueeze(1)
    return z


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN])
@pytest.mark.parametrize("rank", [2, 4])
def test_ov_refit_is_least_squares_over_all_heads(
    family: str, options: dict[str, Any], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov_joint, "damping", undamped)
    case, solution = solved(family, options, OV)
    z = attended_values(case)
    target = torch.einsum("hnr,hrd->nd", z, case.weights.o_HrD)
    cut, paper = solution.compressed(ov=rank), case.solution.compressed(ov=rank)
    bases = solution.ov.bases.to_value_Khh[..., :rank]  # type: ignore[union-attr]
    small = z @ bases.repeat_interleave(case.weights.heads // case.weights.kv_heads, dim=0)
    features = small.transpose(0, 1).flatten(1)
    ours = features @ cut.o_HrD.flatten(0, 1)
    if case.weights.o_bias_D is not None:
        assert cut.o_bias_D is not None
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        ours = ours + cut.o_bias_D - case.weights.o_bias_D
    least = (target - features @ torch.linalg.lstsq(features, target, driver="gelsd").solution).square().sum()
    a3 = (target - outputs(case, paper, z)).square().sum()
    error = (target - ours).square().sum()
    assert float(error) == pytest.approx(float(least), rel=1e-4)
    assert error <= a3


def test_grouped_heads_get_their_own_output_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov_joint, "damping", undamped)
    case, solution = solved("llama", {"kv_heads": 2}, Steps(ov_heads=True))
    z, rank = attended_values(case), 3
    bases = solution.ov.bases.to_value_Khh[..., :rank].repeat_interleave(2, dim=0)  # type: ignore[union-attr]
    cut = solution.compressed(ov=rank)
    for head in range(4):
        small, target = z[head] @ bases[head], z[head] @ case.weights.o_HrD[head]
        best = torch.linalg.lstsq(small, target).solution
        assert torch.allclose(small @ cut.o_HrD[head], small @ best, atol=1e-6 * float(target.abs().max()))


# QK


def rotary_states(family: str, options: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor, Any]:
    """A layer's attention, its rotated queries and keys, and its mask."""
    opened, ids = open_model(tiny(family, **options)), token_ids()
    hidden, calls = opened.start(ids)
    hidden = opened.advance(hidden, calls, 0, LAYER)
    caught: dict[str, torch.Tensor] = {}
    attention = opened.attention(LAYER)
    handle = attention.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(x=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    opened.advance(hidden, calls, LAYER, LAYER + 1)
    handle.remove()
    with torch.no_grad():
        query, key, _ = attention.project(caught["x"])
        query, key = attention.rotated(query, key, calls[LAYER]["position_embeddings"])
    return attention, query, key, calls[LAYER].get("attention_mask")


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL])
def test_the_pair_gram_is_the_curvature_of_the_attention_s_kl(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL between attention rows before and after small complex gains, computed by softmax alone."""
    monkeypatch.setattr(metric, "ROWS", 10_000)
    attention, query, key, mask = rotary_states(family, options)
    heads, size = query.shape[1], 2 * attention.pairs.shape[1]
    gram = metric.pair_gram(attention, query, key, mask)
    generator = torch.Generator().manual_seed(0)
    change = 1e-4 * torch.randn(heads, size, generator=generator, dtype=torch.float64)
    complex_q = torch.complex(*query[..., :size].chunk(2, dim=-1))
    gains = torch.complex(1 + change[:, : size // 2], -change[:, size // 2 :])
    turned = complex_q * gains[None, :, None]
    repeated = key.repeat_interleave(heads // key.shape[1], dim=1)
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    seen = causal if mask is None else mask if mask.dtype == torch.bool else mask == 0

    def rows(queries: torch.Tensor) -> torch.Tensor:
        scores = queries @ repeated.mT * attention.scaling
        if attention.softcap is not None:
            scores = torch.tanh(scores / attention.softcap) * attention.softcap
        return scores.masked_fill(~seen, -torch.inf).log_softmax(-1)

    before = rows(query)
    after = rows(torch.cat([turned.real, turned.imag, query[..., size:]], dim=-1))
    kl = torch.where(seen, before.exp() * (before - after), 0.0).sum((0, 2, 3))
    expected = torch.einsum("hi,hij,hj->h", change, gram, change)
    assert torch.allclose(kl, expected, rtol=2e-3)


def test_fewer_rows_estimate_the_same_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, query, key, mask = rotary_states("llama", {"kv_heads": 2})
    sampled = metric.pair_gram(attention, query, key, mask)
    monkeypatch.setattr(metric, "ROWS", 10_000)
    exact = metric.pair_gram(attention, query, key, mask)
    assert 0 < (sampled - exact).norm() < 0.35 * exact.norm()


def test_linear_position_biases_are_part_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALiBi: the sampled rows are those that the model itself attends with."""
    monkeypatch.setattr(metric, "ROWS", 10_000)
    opened, ids = open_model(tiny("mpt")), token_ids()
    hidden, calls = opened.start(ids)
    caught: dict[str, torch.Tensor] = {}
    attention = opened.attention(0)
    attention.q_proj.register_forward_hook(lambda m, a, out: caught.update(q=out))
    attention.k_proj.register_forward_hook(lambda m, a, out: caught.update(k=out))
    attention.register_forward_hook(lambda m, a, out: caught.update(p=out[1]))
    opened.advance(hidden, calls, 0, 1)
    query, key = (caught[name].unflatten(-1, (4, -1)).transpose(1, 2) for name in "qk")
    mask = metric.additive_mask(calls[0])
    found, _ = metric.attention_rows(attention, query, key, metric.sampled_rows(40), mask)
    assert torch.allclose(found, caught["p"].double(), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    half=st.integers(1, 6), kv_heads=st.integers(1, 3), group=st.integers(1, 3), seed=st.integers(0, 10_000)
)
def test_pair_elimination_is_greedy_with_refitted_gains(
    half: int, kv_heads: int, group: int, seed: int
) -> None:
    grams = torch.stack([psd(2 * half, seed + n) for n in range(kv_heads * group)])
    grams = grams.view(kv_heads, group, 2 * half, 2 * half)
    order, losses = eliminate_pairs(grams, 1e-9)

    def loss(key: int, kept: list[int]) -> float:
        both = torch.tensor(kept + [pair + half for pair in kept], dtype=torch.long)
        dense = torch.cat([torch.ones(half), torch.zeros(half)]).double()
        total = 0.0
        for gram in grams[key]:
            fitted = dense.clone()
            fitted[:] = 0
            if kept:
                fitted[both] = torch.linalg.solve(gram[both][:, both], gram[both] @ dense)
            total += float((dense - fitted) @ gram @ (dense - fitted))
        return total

    for kept in range(half + 1):
        expected = sum(loss(key, order[key, :kept].tolist()) for key in range(kv_heads))
        assert float(losses[kept]) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    for key in range(kv_heads):
        for kept in range(half, 0, -1):
            now = order[key, :kept].tolist()
            options = [loss(key, [pair for pair in now if pair != gone]) for gone in now]
            assert loss(key, order[key, : kept - 1].tolist()) <= min(options) * (1 + 1e-6) + 1e-9


def attention_kl(opened: Any, cut: LayerWeights) -> float:
    """Mean KL of the attention rows of the layer with ``cut`` to the dense ones, by running both."""
    rows = []
    opened.model.config._attn_implementation = "eager"
    for weights in (opened.source[LAYER], cut):
        opened.put(LAYER, weights)
        caught: dict[str, torch.Tensor] = {}
        opened.attention(LAYER).register_forward_hook(lambda m, a, out, into=caught: into.update(p=out[1]))
        with torch.no_grad():
            opened.model(token_ids())
        rows.append(caught["p"].double().clamp_min(1e-300))
    opened.reset(LAYER)
    return float((rows[0] * (rows[0].log() - rows[1].log())).sum(-1).mean())


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN])
def test_the_metric_lowers_the_attention_s_kl(family: str, options: dict[str, Any]) -> None:
    """On average over ranks: the metric is of second order, so single ranks may go the other way."""
    case, solution = solved(family, options, QK)
    opened = open_model(tiny(family, **options))
    sums = [
        sum(attention_kl(opened, s.compressed(qk=rank)) for rank in (2, 4)) for s in (case.solution, solution)
    ]
    assert sums[1] < sums[0]


def test_a_shift_of_all_keys_costs_no_rank_without_rotary_positions() -> None:
    """Softmax cannot see a score that all keys share, so a large common key must not use up a dimension."""
    model, ids = tiny("gpt2"), token_ids()
    with torch.no_grad():
        attention = model.transformer.h[LAYER].attn
        keys = slice(24, 48)
        attention.c_attn.weight[:, :48] *= 4  # attention that is far from flat
        attention.c_attn.bias[keys] += 50 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    opened = open_model(model)
    found = moments_module.collect(opened, ids)[LAYER]
    paper, ours = (
        attention_kl(opened, solve_layer(opened.source[LAYER], found, steps).compressed(qk=3))
        for steps in (Steps(), QK)
    )
    assert ours < 0.8 * paper


# All of them


@every_family
def test_full_rank_is_the_dense_function(family: str, options: dict[str, Any]) -> None:
    """Not the shortcut that leaves full-rank components dense: the bases, gains and refits themselves at full rank."""
    model, ids = tiny(family, **options), token_ids(4, 40)
    with torch.no_grad():
        expected = model(ids).logits
        opened = open_model(model)
        for index, found in enumerate(moments_module.collect(opened, ids)):
            solution = solve_layer(opened.source[index], found, A3_PLUS)
            weights, dense = solution.dense, solution.dense
            if "qk" not in opened.family.fixed:
                weights = solution.qk.apply(weights, dense.qk_rank)
            weights = solution.ov.apply(weights, dense.ov_rank)
            opened.put(index, solution.mlp.apply(weights, dense.mlp_rank))
        assert torch.allclose(opened.model(ids).logits, expected, atol=1e-7)


@every_family
def test_dead_dimensions_and_too_few_tokens_give_finite_weights(family: str, options: dict[str, Any]) -> None:
    opened = open_model(tiny(family, **options))
    with torch.no_grad():
        for index, source in enumerate(opened.source):
            dead = replace(
                source,
                up_Dm=source.up_Dm.clone(),
                up_bias_m=None if source.up_bias_m is None else source.up_bias_m.clone(),
            )
            dead.up_Dm[:, :5] = 0
            if dead.up_bias_m is not None:
                dead.up_bias_m[:5] = 0
            opened.source[index] = dead
            opened.reset(index)
    for index, found in enumerate(moments_module.collect(opened, token_ids(1, 3))):
        solution = solve_layer(opened.source[index], found, A3_PLUS)
        for component, rank in itertools.product(("qk", "ov", "mlp"), (2, 4)):
            if component in opened.family.fixed:
                continue
            assert torch.isfinite(solution.losses(component)).all()  # type: ignore[arg-type]
            cut = solution.compressed(**{component: rank})
            assert all(torch.isfinite(t).all() for t in vars(cut).values() if t is not None)


@pytest.mark.parametrize("steps", [MLP, OV, QK], ids=["mlp", "ov", "qk"])
def test_each_step_stands_alone(steps: Steps) -> None:
    _, whole = solved("llama", {"kv_heads": 2}, A3_PLUS)
    _, alone = solved("llama", {"kv_heads": 2}, steps)
    component = {MLP: "mlp", OV: "ov", QK: "qk"}[steps]
    ours, same = (s.compressed(**{component: 4}) for s in (alone, whole))
    for name, tensor in vars(ours).items():
        assert tensor is None or torch.equal(tensor, getattr(same, name)), name


def test_damping_follows_the_data() -> None:
    assert damping(100, 100_000) == pytest.approx(1e-3)
    assert damping(100, 10) == pytest.approx(10)
    assert damping(0, 0) > 0
    singular = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.isfinite(solve_damped(singular, torch.ones(3, 2, dtype=torch.float64), 0.1)).all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_losses_are_per_token_and_the_energy_is_that_of_rank_0(family: str) -> None:
    """Twice the same tokens lose the same, but for what damping makes of their number."""
    opened = open_model(tiny(family))
    (once, _) = moments_module.collect(opened, token_ids(40, 40))
    weights = in_float64(opened.source[0])
    single, double = (solve_layer(weights, moments, A3_PLUS) for moments in (once, once + once))
    for component in ("qk", "ov", "mlp"):
        losses, again = single.losses(component), double.losses(component)
        assert torch.allclose(losses[:4], again[:4], rtol=0.2)
        assert getattr(single, component).energy == pytest.approx(float(losses[0]))
