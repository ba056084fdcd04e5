"""Weight-only quantization of compact checkpoints by torchao, through transformers' own ``TorchAoConfig``.

torchao quantizes a linear layer's inputs in groups, and a group must divide ``in_features``. Ranks are not round numbers:
o_proj has heads x ov_rank inputs, down_proj mlp_rank. A plain ``TorchAoConfig(IntxWeightOnlyConfig(...))`` therefore refuses
to load most compact checkpoints; ``weight_only`` chooses per layer instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from math import gcd, lcm
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

LARGEST_GROUP = 32
SMALLEST_GROUP = 16
"""Below this the scales weigh as much as the four bits they serve, and the layer takes eight."""
_PACKED_ROWS = 16


def group_size(in_features: int) -> int | None:
    """Largest divisor of ``in_features`` from 16 to 32, or None: such a layer (283 inputs, say) has no usable group."""
    sizes = range(LARGEST_GROUP, SMALLEST_GROUP - 1, -1)
    return next((size for size in sizes if in_features % size == 0), None)


def can_pack(in_features: int, out_features: int) -> bool:
    """Whether torch's int4 kernel for CPUs takes the shape: whole groups of 32 inputs, outputs in blocks of 16."""
    return in_features % LARGEST_GROUP == 0 and out_features % _PACKED_ROWS == 0


def packing_steps(*, heads: int, kv_heads: int) -> dict[str, int]:
    """Rank steps per component that let ``can_pack`` take every layer of a model: plan in multiples of these to hold real
    four-bit weights. ``heads`` and ``kv_heads`` are query and key/value heads; both times a rank are a projection's outputs,
    ``heads`` times a rank o_proj's inputs.
    """
    rows = _PACKED_ROWS // gcd(_PACKED_ROWS, kv_heads)
    return {"qk": rows, "ov": lcm(rows, LARGEST_GROUP // gcd(LARGEST_GROUP, heads)), "mlp": LARGEST_GROUP}


def linear_layers(folder: Path | str, *, trust_remote_code: bool = False) -> dict[str, tuple[int, int]]:
    """Name -> (in_features, out_features) of the decoder's linear layers; the head stays as it is. Loads no weights."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


_COMPONENTS = {
    **dict.fromkeys(("q_down", "q_proj", "k_proj"), "qk"),
    **dict.fromkeys(("v_proj", "o_proj"), "ov"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
"""Projection -> the component that it belongs to."""


def installed() -> bool:
    """Whether torchao is here; it is an extra (``pip install 'rankalloc[quantize]'``)."""
    return find_spec("torchao") is not None


def planned_bits(folder: Path | str, *, trust_remote_code: bool = False) -> dict[str, int]:
    """Name of a linear layer -> the bits that the plan of the checkpoint in ``folder`` gave it; empty where it gave none."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    widths = {}
    for name in linear_layers(folder, trust_remote_code=trust_remote_code):
        component = _COMPONENTS[name.rpartition(".")[2]]
        layer = next(int(part) for part in name.split(".") if part.isdecimal())
        bits = getattr(config, f"{component}_bits", [])
        if bits and bits[layer] is not None:
            widths[name] = bits[layer]
    return widths


def weight_only(
    folder: Path | str,
    *,
    bits: int | None = None,
    packed: bool = False,
    trust_remote_code: bool = False,
) -> Any:
    """A ``TorchAoConfig`` that fits the shapes of the checkpoint in ``folder``; pass it to ``from_pretrained``.

    Args:
        bits: 8 (one scale per output) or 4 (one scale per group of 16 to 32 inputs; eight bits where no group divides). None:
            each layer's own, as its plan chose them, four bits packed; other layers stay in the checkpoint's type.
        packed: with 4 bits, hold two weights in a byte wherever ``can_pack`` says so; other layers take eight bits. CPU only, a
            prototype of torchao's, and torchao cannot save it. Without, the sixteen levels sit in one byte each, on any device,
            and ``save_pretrained`` works.
        trust_remote_code: as in ``from_pretrained``; not needed after ``import solvers``.

    Raises:
        ValueError: other bits than 4 or 8, ``packed`` with 8, or no bits for a checkpoint whose plan chose none.
        ImportError: torchao is not installed (``pip install 'rankalloc[quantize]'``).
    """
    if bits not in (None, 4, 8) or (packed and bits != 4):
        raise ValueError(f"bits={bits}, packed={packed}: use 8, 4, or 4 with packed=True")
    from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    # torchao would otherwise change inductor's settings and float32 matmul precision for the whole process.
    eight = Int8WeightOnlyConfig(set_inductor_config=False)
    if bits == 8:
        return TorchAoConfig(eight)
    if bits is None:
        planned = planned_bits(folder, trust_remote_code=trust_remote_code)
        if not planned:
            raise ValueError(f"{folder}: its plan chose no bits; say bits=8 or bits=4")
        configs = {8: eight, 4: _packed_four()}
        return TorchAoConfig(FqnToConfig({f"{name}.weight": configs[n] for name, n in planned.items()}))
    shapes = linear_layers(folder, trust_remote_code=trust_remote_code)
    # Names of weights, not of modules: torchao would try the module's bias as well.
    four_bits = {f"{name}.weight": four for name, four in _four_bits(shapes, packed=packed).items()}
    rest = {f"{name}.weight": eight for name in shapes if f"{name}.weight" not in four_bits}
    return TorchAoConfig(FqnToConfig({**four_bits, **rest}))


def _packed_four() -> Any:
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    # HQQ's choice of scales, without data: the example models lose 0.6 to 0.9 of what plain minima and maxima lose.
    return PrototypeInt4WeightOnlyConfig(
        group_size=LARGEST_GROUP, int4_choose_qparams_algorithm="hqq", set_inductor_config=False
    )


def _four_bits(shapes: Mapping[str, tuple[int, int]], *, packed: bool) -> dict[str, Any]:
    """torchao's configuration of every layer that can take four bits."""
    if packed:
        packed_four = _packed_four()
        return {name: packed_four for name, shape in shapes.items() if can_pack(*shape)}
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup

    groups = {name: group_size(inputs) for name, (inputs, _) in shapes.items()}
    # With zero points the example models lose 0.6 of what symmetric levels lose.
    options = {"weight_dtype": torch.int4, "mapping_type": MappingType.ASYMMETRIC}  # type: ignore[attr-defined]
    return {
        name: IntxWeightOnlyConfig(granularity=PerGroup(size), **options)
        for name, size in groups.items()
        if size is not None
    }


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are held: packed values, scales and zero points counted."""
    sizes: dict[int, int] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        names = getattr(tensor, "tensor_data_names", None)
        parts = [tensor]
        if names is not None:
            optional = getattr(tensor, "optional_tensor_data_names", [])
            parts = [getattr(tensor, name) for name in (*names, *optional)]
        sizes[id(tensor)] = sum(part.numel() * part.element_size() for part in parts if part is not None)
    return sum(sizes.values())
