"""Damping in proportion to each dimension's own moment: massive activations, few tokens, dead dimensions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.a3.compress import solve_layer
from solvers.a3.linalg import SOURCE_EPS, damped, damped_factor, factor, silence_constants, solve_damped
from solvers.a3.moments import LayerMoments
from solvers.a3.steps import A3, A3_PLUS, Steps
from solvers.weights import LayerWeights

TOKENS, HIDDEN = 3000, 24
MLP = Steps(mlp_order=True, mlp_refit=True)


def normal(*sizes: int, seed: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(rows: torch.Tensor) -> torch.Tensor:
    return rows.mT @ rows


def layer(
    neurons: torch.Tensor, values: torch.Tensor, kv_heads: int = 1
) -> tuple[LayerWeights, LayerMoments]:
    """A layer without rotary positions whose neurons and values (per query head) are these rows.

    Args:
        neurons: (N, m); values: (N, H, h).
    """
    count, heads, size = values.shape
    flat = values.flatten(1)
    small = normal(4, 7, 2, seed=90)
    moments = LayerMoments(
        count=count,
        q_Hhh=gram(small[0][None]).expand(heads, 2, 2),
        k_Khh=gram(small[1][None]).expand(kv_heads, 2, 2),
        v_Khh=gram(values.transpose(0, 1)).unflatten(0, (kv_heads, -1)).sum(1),
        z_ZZ=gram(flat),
        z_Z=flat.sum(0),
        mlp_mm=gram(neurons),
        mlp_m=neurons.sum(0),
        key_covariance_Hhh=gram(small[2][None]).expand(heads, 2, 2),
    )
    weights = LayerWeights(
        q_DHr=normal(HIDDEN, heads, 2, seed=91),
        k_DKr=normal(HIDDEN, kv_heads, 2, seed=92),
        v_DKr=normal(HIDDEN, kv_heads, size, seed=93),
        o_HrD=normal(heads, size, HIDDEN, seed=94),
        up_Dm=normal(HIDDEN, neurons.shape[1], seed=95),
        down_mD=normal(neurons.shape[1], HIDDEN, seed=96),
    )
    return weights, moments


def correlated(count: int, size: int, seed: int) -> torch.Tensor:
    """Rows whose dimensions share a third of their directions, as neurons do."""
    shared = normal(count, size // 3 + 1, seed=seed) @ normal(size // 3 + 1, size, seed=50)
    return shared + 0.5 * normal(count, size, seed=seed + 1)


def mlp_error(
    neurons: torch.Tensor, held: torch.Tensor, rank: int, steps: Steps, scale: torch.Tensor | None = None
) -> float:
    """Mean squared output error on ``held`` of a solution that has seen ``neurons``; both times ``scale``, the weights by its
    inverse: the same function.
    """
    scale = torch.ones(neurons.shape[1], dtype=torch.float64) if scale is None else scale
    weights, moments = layer(neurons * scale, normal(len(neurons), 1, 4, seed=3))
    weights = replace(weights, down_mD=weights.down_mD / scale[:, None])
    solution = solve_layer(weights, moments, steps)
    kept = solution.mlp.order_m[:rank].sort().values
    cut = solution.compressed(mlp=rank)
    lost = (held * scale) @ weights.down_mD - (held * scale)[:, kept] @ cut.down_mD
    return float(lost.square().sum(1).mean())


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 12),
    rows=st.integers(1, 40),
    seed=st.integers(0, 1000),
    powers=st.lists(st.sampled_from([-1, 0, 1]), min_size=12, max_size=12),
    loud=st.integers(0, 11),
    share=st.sampled_from([1e-6, 1e-3, 0.1, 3.0]),
)
def test_solutions_follow_a_change_of_units(
    size: int, rows: int, seed: int, powers: list[int], loud: int, share: float
) -> None:
    """x -> s x with W -> W / s is the same function, so the damped solution changes by that alone."""
    data, scale = normal(rows, size, seed=seed), 10.0 ** torch.tensor(powers[:size], dtype=torch.float64)
    scale[loud % size] *= 1e4
    right = gram(data) @ normal(size, 3, seed=seed + 1)
    plain = solve_damped(gram(data), right, share)
    scaled = solve_damped(gram(data * scale), scale[:, None] * right, share)
    assert torch.allclose(scaled * scale[:, None], plain, rtol=1e-6, atol=1e-9 * float(plain.abs().max()))


@pytest.mark.parametrize("loud", [1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("rank", [30, 50])
def test_one_massive_neuron_changes_nothing(loud: float, rank: int) -> None:
    """A neuron in other units is the same neuron: order, refit and held-out error stay."""
    neurons, held = correlated(TOKENS, 60, 1), correlated(TOKENS, 60, 11)
    scale = torch.ones(60, dtype=torch.float64)
    scale[3] = loud
    error = mlp_error(neurons, held, rank, MLP, scale)
    assert error == pytest.approx(mlp_error(neurons, held, rank, MLP), rel=1e-6)
    assert error < 0.7 * mlp_error(neurons, held, rank, A3, scale)


@pytest.mark.parametrize("loud", [1e2, 1e3, 1e4])
def test_a_massive_activation_does_not_spoil_the_others(loud: float) -> None:
    """Here the neuron is really louder, its weights are not smaller: the others must be solved as well as without it."""
    neurons, held = correlated(TOKENS, 60, 1), correlated(TOKENS, 60, 11)
    neurons[:, 3] *= loud
    held[:, 3] *= loud
    for rank in (30, 50):
        assert mlp_error(neurons, held, rank, MLP) < 0.7 * mlp_error(neurons, held, rank, A3)


@pytest.mark.parametrize("count", [5, 20, 59])
def test_fewer_tokens_than_neurons(count: int) -> None:
    neurons, held = correlated(count, 60, 1), correlated(TOKENS, 60, 11)
    for rank in (20, 50):
        assert mlp_error(neurons, held, rank, MLP) < 1.1 * mlp_error(neurons, held, rank, A3)


def ov_error(values: torch.Tensor, held: torch.Tensor, rank: int, steps: Steps) -> float:
    weights, moments = layer(correlated(len(values), 6, 1), values)
    solution = solve_layer(weights, moments, steps)
    cut = solution.compressed(ov=rank)
    bases = getattr(solution.ov, "bases", solution.ov).to_value_Khh[0, :, :rank]
    dense = torch.einsum("nhi,hid->nd", held, weights.o_HrD)
    lost = dense - torch.einsum("nhi,ir,hrd->nd", held, bases, cut.o_HrD)
    return float(lost.square().sum(1).mean())


@pytest.mark.parametrize("count", [40, 100, 300])
@pytest.mark.parametrize(("rank", "most"), [(16, 1.2), (64, 0.8), (128, 0.8), (240, 0.8)])
def test_one_key_value_head_of_256_and_few_tokens(count: int, rank: int, most: float) -> None:
    """Values of a rank-deficient moment, with float32's noise: the refit must not make up weights for what it never saw."""

    def values(tokens: int, seed: int) -> torch.Tensor:
        rows = correlated(2 * tokens, 256, seed).view(tokens, 2, 256)
        return rows.float().double()

    found = ov_error(values(count, 1), values(1000, 21), rank, A3_PLUS)
    paper = ov_error(values(count, 1), values(1000, 21), rank, A3)
    assert found < most * paper


def test_dead_and_constant_dimensions_are_solvable() -> None:
    neurons = correlated(TOKENS, 12, 1)
    neurons[:, 2] = 0
    neurons[:, 5] = 3.0
    weights, moments = layer(neurons, normal(TOKENS, 1, 4, seed=3))
    solution = solve_layer(weights, moments, A3_PLUS)
    assert solution.mlp.order_m[-1] == 2
    cut = solution.compressed(mlp=11, ov=3)
    assert all(torch.isfinite(tensor).all() for tensor in cut.tensors().values())
    assert mlp_error(neurons, neurons, 11, MLP) < 1e-12


def test_directions_within_float32_s_noise_are_no_data() -> None:
    rows = normal(500, 6, seed=1) @ torch.diag(torch.tensor([1, 1, 1, 1, 1e-7, 0.0], dtype=torch.float64))
    root, inverse = factor(gram(rows))
    assert torch.linalg.matrix_rank(root) == 4
    assert float(inverse.abs().max()) < 10
    # float32 knows nothing of a moment below the square of its precision, with a margin of 64 and once for every dimension.
    noise = 3 * 64 * SOURCE_EPS**2
    for share, dimensions in ((2.0, 3), (0.5, 2)):
        root, inverse = factor(torch.diag(torch.tensor([1, 0.5, share * noise], dtype=torch.float64)))
        assert torch.linalg.matrix_rank(root, tol=1e-9) == dimensions
        assert torch.linalg.matrix_rank(inverse, tol=1e-9) == dimensions
    kept, _ = factor(gram(normal(500, 6, seed=1) * SOURCE_EPS))
    assert torch.linalg.matrix_rank(kept) == 6  # what counts is the share, not the size


def test_damping_by_hand() -> None:
    """A share of each dimension's own moment; dead ones count as a millionth of the median of those that live."""
    moment = torch.diag(torch.tensor([4, 1, 0, 0, 0], dtype=torch.float64))
    expected = torch.tensor([4.4, 1.1, 1e-7, 1e-7, 1e-7], dtype=torch.float64)
    assert torch.allclose(damped(moment, 0.1), torch.diag(expected), rtol=1e-12)
    assert torch.equal(damped(torch.zeros(2, 2), 0.1), torch.eye(2))
    both = torch.stack([moment, 9 * moment])
    assert torch.equal(damped(both, 0.1), torch.stack([damped(each, 0.1) for each in both]))


def test_a_share_is_raised_tenfold_where_rounding_leaves_a_moment_indefinite() -> None:
    moment = torch.tensor([[1, 1.05], [1.05, 1]], dtype=torch.float64)
    root = damped_factor(moment, 0.01)
    assert torch.equal(root, root.tril())
    assert torch.allclose(root @ root.mT, moment + 0.1 * torch.eye(2, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(damped_factor(moment, 0.2) @ damped_factor(moment, 0.2).mT, damped(moment, 0.2))


def test_inputs_that_hardly_vary_are_taken_out() -> None:
    centred = torch.tensor([[1e-5, 0.3], [0.3, 2]], dtype=torch.float64)
    missing = torch.ones(2, 3, dtype=torch.float64)
    silence_constants(centred, missing, torch.tensor([100.0, 2.0], dtype=torch.float64))
    assert centred.tolist() == [[0, 0], [0, 2]]
    assert missing.tolist() == [[0] * 3, [1] * 3]


def test_a_silent_dimension_weighs_next_to_nothing() -> None:
    raised = damped(torch.diag(torch.tensor([4.0, 2.0, 2.0, 0.0, 1e-12], dtype=torch.float64)), 0.5)
    assert raised.diagonal().tolist() == pytest.approx([6.0, 3.0, 3.0, 1e-6, 1e-6], rel=1e-5)
    assert damped(torch.zeros(2, 2, dtype=torch.float64), 0.1).tolist() == [[1, 0], [0, 1]]


def test_a_neuron_that_hardly_speaks_is_given_no_large_weights() -> None:
    """They would be harmless in float64 and ruin whatever shares a scale with them when weights are rounded."""
    neurons = correlated(TOKENS, 60, 1)
    neurons[:, 7] *= 1e-9
    weights, moments = layer(neurons, normal(TOKENS, 1, 4, seed=3))
    solution = solve_layer(weights, moments, Steps(mlp_refit=True))
    order = torch.cat([torch.tensor([7]), solution.mlp.order_m[solution.mlp.order_m != 7]])
    neuron_order = replace(solution.mlp.neuron_order, order_m=order)
    cut = replace(solution, mlp=replace(solution.mlp, neuron_order=neuron_order)).compressed(mlp=40)
    assert float(cut.down_mD.abs().max()) < 10 * float(weights.down_mD.abs().max())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_moment_is_refused(bad: float) -> None:
    moment = torch.eye(3, dtype=torch.float64)
    moment[1, 1] = bad
    with pytest.raises(ArithmeticError, match="3 dimensions"):
        damped_factor(moment, 1e-3)
    with pytest.raises(ArithmeticError, match="not finite"):
        solve_damped(moment, torch.ones(3, 1, dtype=torch.float64), 1e-3)


@pytest.mark.parametrize("size", [0.3, 3.0, 300.0])
def test_constant_neurons_beside_a_bias_are_left_to_the_intercept(size: float) -> None:
    """Their variance is rounding's, of either sign; a refit must neither fail on it nor divide by it."""
    neurons, held = correlated(TOKENS, 40, 1), correlated(TOKENS, 40, 11)
    for rows in (neurons, held):
        rows[:, :6] = size * torch.arange(1, 7)
    weights, moments = layer(neurons, normal(TOKENS, 1, 4, seed=3))
    weights = replace(weights, down_bias_D=normal(HIDDEN, seed=97), o_bias_D=normal(HIDDEN, seed=98))
    moments = replace(moments, mlp_mm=moments.mlp_mm.float().double())  # as it is stored
    solution = solve_layer(weights, moments, A3_PLUS)
    for rank in (10, 25, 39):
        cut = solution.compressed(mlp=rank)
        kept = solution.mlp.order_m[:rank].sort().values
        assert cut.down_bias_D is not None
        lost = held @ weights.down_mD + weights.down_bias_D - held[:, kept] @ cut.down_mD - cut.down_bias_D
        varying = (held - held.mean(0)) @ weights.down_mD
        assert float(lost.square().mean()) < float(varying.square().mean())
    assert float(lost.square().mean()) < 1e-3 * float(varying.square().mean())
