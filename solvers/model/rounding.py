"""Rounding a layer's components to torchao's own grids: what a layer computes with once torchao has quantized it.

Eight bits: one scale per output, a 127.5th of the row's largest weight. Four: sixteen levels for 32 inputs, placed by HQQ.
The integers come from torchao's own functions, on weights in the type that they are stored in; the tests hold them to the
layers that torchao makes.

Rounding is for measuring: what is stored stays unrounded, since neither grid maps its own values to themselves
(``docs/decisions/0024-rank-and-bits.md``), and torchao makes the very values that were measured of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from solvers.weights import LayerWeights

MATRICES: dict[str, tuple[str, ...]] = {
    "qk": ("q_DHr", "k_DKr"),
    "ov": ("v_DKr", "o_HrD"),
    "mlp": ("gate_Dm", "up_Dm", "down_mD"),
}
"""Component -> its matrices."""
_GROUP = 32
_MIDDLE = 8
"""Four bits are counted from here."""


def held(weights: LayerWeights, bits: Mapping[str, int]) -> LayerWeights:
    """The layer as torchao holds it when it quantizes ``weights`` (in the type they are stored in): in float32.

    Args:
        bits: component -> 8 or 4; components that are not named are left as they are.

    Raises:
        ImportError: torchao is not installed.
    """
    matrices = {}
    for component, width in bits.items():
        grid = {8: _eight, 4: _four}[width]
        for name in MATRICES[component]:
            tensor = getattr(weights, name)
            if tensor is not None:
                rows = _as_linear(name, tensor)
                matrices[name] = _from_linear(
                    name, grid(rows.cpu().contiguous()).to(rows.device), tensor.shape
                )
    return replace(weights.to(dtype=torch.float32), **matrices)


def _as_linear(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The matrix as ``nn.Linear`` keeps it, (outputs, inputs)."""
    if name.endswith("HrD"):
        return tensor.permute(2, 0, 1).flatten(1)
    return tensor.permute(1, 2, 0).flatten(0, 1) if tensor.dim() == 3 else tensor.T


def _from_linear(name: str, matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if name.endswith("HrD"):
        return matrix.unflatten(1, shape[:2]).permute(1, 2, 0)
    return matrix.unflatten(0, shape[1:]).permute(2, 0, 1) if len(shape) == 3 else matrix.T


def _eight(matrix: torch.Tensor) -> torch.Tensor:
    from torchao.quantization import Int8Tensor, PerRow

    return Int8Tensor.from_hp(matrix, granularity=PerRow()).dequantize(torch.float32)


def _four(matrix: torch.Tensor) -> torch.Tensor:
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

    # torchao cannot give packed weights back; this is the function that packs them, with the same arguments.
    levels, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
        matrix, nbits=4, group_size=_GROUP, axis=1, compute_dtype=matrix.dtype, device="cpu"
    )
    grouped = levels.unflatten(1, (-1, _GROUP)).float() - _MIDDLE
    shape = (*grouped.shape[:2], 1)
    return (grouped * scale.float().view(shape) + zero.float().view(shape)).flatten(1)
