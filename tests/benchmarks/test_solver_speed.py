"""What the speed benchmark times on its two sides is the same function, and its extrapolation is the fitted power."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import literal, solver_speed
from benchmarks.layers import LayerShape, random_layer
from solvers.a3.linalg import tail_sums
from solvers.a3.mlp import solve_mlp
from solvers.a3.moments import LayerMoments
from solvers.a3.ov import solve_ov
from solvers.a3.qk import QKPairs, solve_qk
from solvers.weights import LayerWeights

D, H, SIZE, M, N = 24, 4, 6, 30, 200


def case(kv_heads: int, *, rotary: bool) -> tuple[torch.Tensor, torch.Tensor, LayerWeights, LayerMoments]:
    """Tokens X (N, D), attended tokens P (H, N, D), a layer, and the moments of what the layer makes of them."""
    weights, moments = random_layer(LayerShape("tiny", D, H, kv_heads, SIZE, M), rotary=rotary, neurons=M)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, D).double()
    attended = torch.randn(H, N, D, generator=generator, dtype=torch.float64)
    states = [torch.einsum("nd,dhi->hni", x, side) for side in (weights.q_DHr, weights.k_DKr, weights.v_DKr)]
    values = weights.v_DKr.permute(1, 0, 2).repeat_interleave(H // kv_heads, dim=0)
    z = (attended @ values).transpose(0, 1).flatten(1)
    for name, gram in zip(("q_Hhh", "k_Khh", "v_Khh"), (side.mT @ side for side in states), strict=True):
        setattr(moments, name, gram)
    moments.z_ZZ, moments.count = z.T @ z, N
    return x, attended, weights, moments


def test_qk_heads_have_the_losses_of_ours() -> None:
    x, _, weights, moments = case(H, rotary=False)
    root, left, roots = literal.root(x.T @ x / N)
    inverse = left / roots @ left.T
    energies: Any = 0
    for i in range(H):
        query, key = weights.q_DHr[:, i], weights.k_DKr[:, i]
        new_q, new_k, sigma = literal.qk_head(root, inverse, query, key)
        assert torch.allclose(new_q @ new_k, query @ key.T)
        energies = energies + sigma[:SIZE].square()
    assert torch.allclose(tail_sums(energies), solve_qk(moments).losses)


@pytest.mark.parametrize("kv_heads", [H, 2])
def test_ov_heads_and_groups_have_the_losses_of_ours(kv_heads: int) -> None:
    x, attended, weights, moments = case(kv_heads, rotary=False)
    group, energies = H // kv_heads, torch.zeros(SIZE, dtype=torch.float64)
    for j in range(kv_heads):
        data, value = (attended[j] if group == 1 else x), weights.v_DKr[:, j]
        outputs = weights.o_HrD[j * group : (j + 1) * group].transpose(0, 1).flatten(1)
        root, left, roots = literal.root(data.T @ data / N)
        if group == 1:
            new_v, new_o, sigma = literal.ov_head(root, left, roots, value, outputs)
        else:
            new_v, new_o, sigma = literal.ov_group(root, left / roots @ left.T, value, outputs)
        assert torch.allclose(new_v @ new_o, value @ outputs)
        energies += sigma[:SIZE].square()
    assert torch.allclose(tail_sums(energies), solve_ov(weights, moments).losses)


def test_rotary_pairs_and_neurons_come_in_the_order_of_ours() -> None:
    x, _, weights, moments = case(2, rotary=True)
    importance_KP = literal.qk_rotary(literal.root(x.T @ x / N)[0], weights.q_DHr, weights.k_DKr)
    found = solve_qk(moments)
    assert isinstance(found, QKPairs)
    assert torch.equal(importance_KP.argsort(1, descending=True), found.order_KP)
    importance = literal.mlp(literal.root(moments.mlp_mm / N)[0], weights.down_mD)
    assert torch.equal(importance.argsort(descending=True), solve_mlp(weights, moments).order_m)


def test_times_are_carried_on_by_their_own_power() -> None:
    times = {size: 1e-9 * size**2.5 for size in (256, 512, 1024)}
    assert solver_speed.exponent(times) == pytest.approx(2.5)
    assert solver_speed.seconds_at(times, 512) == times[512]
    assert solver_speed.seconds_at(times, 4096) == pytest.approx(1e-9 * 4096**2.5)
    steep = {size: 1e-9 * size**4 for size in (256, 512, 1024)}
    assert solver_speed.seconds_at(steep, 2048) == pytest.approx(8 * steep[1024])


def test_every_component_of_every_shape_has_its_ratios() -> None:
    shapes = (LayerShape("mha", D, H, H, SIZE, M), LayerShape("gqa", D, H, 1, SIZE, M))
    found = solver_speed.run(ladder=(128, 136, 144), neurons=(128, 144), shapes=shapes, memory=None)
    rows = [line for line in solver_speed.table(found).splitlines() if line.startswith(("| mha", "| gqa"))]
    names = ["QK, no rotary", "QK, rotary", "OV", "MLP", "QK, rotary", "OV", "MLP"]
    assert len(rows) == len(names)
    assert all(name in row for name, row in zip(names, rows, strict=True))
