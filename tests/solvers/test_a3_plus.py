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

from solvers.a3 import mlp, mlp_elimination, ov_joint
from solvers.a3 import moments as moments_module
from solvers.a3.compress import LayerSolution, in_float64, solve_layer
from solvers.a3.linalg import damping, solve_damped
from solvers.a3.mlp_elimination import eliminate
from solvers.a3.steps import A3_PLUS, Steps
from solvers.model.surgery import open_model
from tests.solvers.test_literal import LAYER, PARTIAL, PLAIN, ROTARY, Literal, literal
from tests.support.models import CASES as EVERY_CASE
from tests.support.models import case_id, tiny, token_ids

every_family = pytest.mark.parametrize(("family", "options"), EVERY_CASE, ids=case_id)
MLP = Steps(mlp_order=True, mlp_refit=True)
OV = Steps(ov_heads=True, ov_refit=True)
QK = Steps(qk_metric=True, qk_gains=True)


def solved(family: str, options: dict[str, Any], steps: Steps) -> tuple[Literal, LayerSolution]:
    case = literal(family, options)
    moments = moments_module.collect(open_model(tiny(family, **options)), token_ids())[LAYER]
    return case, solve_layer(case.weights, moments, steps)


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
    neurons = solution.mlp.order_m[:rank].sort().values  # type: ignore[union-attr]
    cut = solution.compressed(mlp=rank)
    x, target = case.mlp_x, case.mlp_x @ case.weights.down_mD
    features = x[:, neurons]
    if case.weights.down_bias_D is not None:
        features = torch.cat([features, torch.ones(len(x), 1)], dim=1)
        assert cut.down_bias_D is not None
        ours = x[:, neurons] @ cut.down_mD + cut.down_bias_D - case.weights.down_bias_D
    else:
        ours = x[:, neurons] @ cut.down_mD
    smallest = (
        (target - features @ torch.linalg.lstsq(features, target, driver="gelsd").solution).square().sum()
    )
    paper = (target - x[:, neurons] @ case.weights.down_mD[neurons]).square().sum()
    error = (target - ours).square().sum()
    assert float(error) == pytest.approx(float(smallest), rel=1e-4)
    assert error <= paper + 1e-24 * target.square().sum()  # a dead neuron costs nothing but rounding


@pytest.mark.parametrize(("family", "options"), [*ROTARY, *PARTIAL, *PLAIN])
def test_the_whole_mlp_step_loses_less_than_a3(family: str, options: dict[str, Any]) -> None:
    """Over all ranks: a greedy order proves nothing for a single one."""
    case, solution = solved(family, options, MLP)
    x, target = case.mlp_x, case.mlp_x @ case.weights.down_mD
    sums = [0.0, 0.0]
    for rank in range(2, 40, 5):
        cut = solution.compressed(mlp=rank)
        neurons = solution.mlp.order_m[:rank].sort().values  # type: ignore[union-attr]
        shift = 0 if cut.down_bias_D is None else cut.down_bias_D - case.weights.down_bias_D
        paper = case.solution.mlp.order_m[:rank]
        sums[0] += float((target - x[:, neurons] @ cut.down_mD - shift).square().sum())
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
    smallest = (
        (target - features @ torch.linalg.lstsq(features, target, driver="gelsd").solution).square().sum()
    )
    a3 = (target - outputs(case, paper, z)).square().sum()
    error = (target - ours).square().sum()
    assert float(error) == pytest.approx(float(smallest), rel=1e-4)
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


# All of them


@every_family
def test_full_rank_is_the_dense_function(family: str, options: dict[str, Any]) -> None:
    """Not the shortcut that leaves full-rank components dense: the bases, gains and refits themselves at full rank."""
    model, ids = tiny(family, **options), token_ids(4, 40)
    with torch.no_grad():
        expected = model(ids).logits
        opened = open_model(model)
        for index, moments in enumerate(moments_module.collect(opened, ids)):
            solution = solve_layer(opened.source[index], moments, A3_PLUS)
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
    for index, moments in enumerate(moments_module.collect(opened, token_ids(1, 3))):
        solution = solve_layer(opened.source[index], moments, A3_PLUS)
        for component, rank in itertools.product(("qk", "ov", "mlp"), (2, 4)):
            if component in opened.family.fixed:
                continue
            assert torch.isfinite(solution.losses(component)).all()  # type: ignore[arg-type]
            cut = solution.compressed(**{component: rank})
            assert all(torch.isfinite(t).all() for t in vars(cut).values() if t is not None)


@pytest.mark.parametrize("steps", [MLP, OV, QK], ids=["mlp", "ov", "qk"])
def test_each_step_stands_alone(steps: Steps) -> None:
    _, all_steps = solved("llama", {"kv_heads": 2}, A3_PLUS)
    _, alone = solved("llama", {"kv_heads": 2}, steps)
    component = {MLP: "mlp", OV: "ov", QK: "qk"}[steps]
    ours, expected = (s.compressed(**{component: 4}) for s in (alone, all_steps))
    for name, tensor in vars(ours).items():
        assert tensor is None or torch.equal(tensor, getattr(expected, name)), name


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
