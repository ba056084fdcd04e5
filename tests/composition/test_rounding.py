"""Rounded weights are those that torchao's own layers compute with."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from solvers.model.rounding import MATRICES, held
from solvers.quantization import can_pack
from solvers.weights import LayerWeights

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Of the largest weight: packed layers of half precision multiply in it."""


def layer(seed: int, dtype: torch.dtype, *, gate: bool = True) -> LayerWeights:
    """Every matrix takes four bits; some rows are far larger than others, some weights zero."""
    torch.manual_seed(seed)

    def weights(*shape: int) -> torch.Tensor:
        scale = torch.exp(torch.randn(shape[-1])) if len(shape) == 2 else 1.0
        found = 0.05 * torch.randn(shape) * scale
        found[0] *= torch.randint(0, 2, found[0].shape)
        return found.to(dtype)

    return LayerWeights(
        q_DHr=weights(64, 4, 8),
        k_DKr=weights(64, 2, 8),
        v_DKr=weights(64, 2, 16),
        o_HrD=weights(4, 16, 64),
        gate_Dm=weights(64, 96) if gate else None,
        up_Dm=weights(64, 96),
        down_mD=weights(96, 64),
        up_bias_m=weights(96, 1)[:, 0],
    )


def as_layer(name: str, tensor: torch.Tensor) -> nn.Linear:
    """The matrix as a linear layer of a checkpoint, written out."""
    rows = {
        "o_HrD": lambda: tensor.reshape(-1, tensor.shape[-1]).T,
        "down_mD": lambda: tensor.T,
        "gate_Dm": lambda: tensor.T,
        "up_Dm": lambda: tensor.T,
    }.get(name, lambda: tensor.reshape(tensor.shape[0], -1).T)()
    made = nn.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=tensor.dtype)
    with torch.no_grad():
        made.weight.copy_(rows)
    return made


def computed(made: nn.Linear, bits: int) -> torch.Tensor:
    """What the layer multiplies with after torchao has quantized it: its answers to the unit vectors, (outputs, inputs)."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    eye, dtype = torch.eye(made.in_features, dtype=made.weight.dtype), made.weight.dtype
    if bits == 8:
        quantize_(made, Int8WeightOnlyConfig(set_inductor_config=False))
    else:
        assert can_pack(made.in_features, made.out_features)
        options = {"group_size": 32, "int4_choose_qparams_algorithm": "hqq", "set_inductor_config": False}
        quantize_(made, PrototypeInt4WeightOnlyConfig(**options))
    assert type(made.weight.data) is not torch.Tensor
    assert made.weight.dtype == dtype
    with torch.no_grad():
        return made(eye).T.float()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_rounded_weights_are_those_of_torchaos_own_layers(bits: int, dtype: torch.dtype) -> None:
    for seed in range(3):
        weights = layer(seed, dtype)
        rounded = held(weights, dict.fromkeys(MATRICES, bits))
        for name in (name for names in MATRICES.values() for name in names):
            expected = computed(as_layer(name, getattr(weights, name)), bits)
            found = as_layer(name, getattr(rounded, name)).weight
            margin = TOLERANCE[dtype] * float(expected.abs().max())
            assert torch.allclose(found, expected, rtol=TOLERANCE[dtype], atol=margin), name
        assert torch.equal(rounded.up_bias_m, weights.up_bias_m.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_named_components_are_rounded(dtype: torch.dtype) -> None:
    weights = layer(0, dtype, gate=False)
    rounded = held(weights, {"ov": 8, "mlp": 4})
    assert torch.equal(rounded.q_DHr, weights.q_DHr.float())
    assert torch.equal(rounded.k_DKr, weights.k_DKr.float())
    for name in ("v_DKr", "o_HrD", "up_Dm", "down_mD"):
        assert not torch.equal(getattr(rounded, name), getattr(weights, name).float())
    assert rounded.gate_Dm is None
