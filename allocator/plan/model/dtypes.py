"""How many bytes weights and caches take in types other than the checkpoint's own. Pure: no torch.

Quantized weights are what ``solvers.quantization.weight_only`` makes of a compact checkpoint: linear layers of the decoder
blocks hold integers with their scales, everything else (embeddings, head, norms, biases, experts) stays in its own type.
"""

from __future__ import annotations

FLOATS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Types that every parameter is stored in, and their bytes."""
INT8, INT4, INT4_PACKED = QUANTIZED = ("int8", "int4", "int4packed")
"""``weight_only``'s ``bits=8``, ``bits=4`` and ``bits=4, packed=True``."""
WEIGHTS = (*FLOATS, *QUANTIZED)
WIDTHS = {8: INT8, 4: INT4_PACKED}
"""Bits that a plan may give a component -> how its weights are then held."""
CACHES = {**FLOATS, "float8": 1, INT8: 1}
"""Bytes of a cached key or value; what a cache keeps beside them (scales) is its engine's affair and not counted."""
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}
"""What people also write."""

_GROUPS = range(32, 15, -1)
_LARGEST_GROUP = 32
_PACKED_ROWS = 16
_OUTPUT_BYTES = 4 + 1
"""Eight bits: a float32 scale and an int8 zero point for every output."""


def can_pack(inputs: int, outputs: int) -> bool:
    """``solvers.quantization.can_pack``: whole groups of 32 inputs, outputs in blocks of 16."""
    return inputs % _LARGEST_GROUP == 0 and outputs % _PACKED_ROWS == 0


def linear_bytes(kind: str, inputs: int, outputs: int, own_bytes: int) -> int:
    """Bytes of a quantized linear layer's weight with its scales and zero points.

    The shapes that take four bits are those of ``solvers.quantization.group_size`` and ``can_pack``; the tests hold the two to
    each other.

    Args:
        kind: one of ``QUANTIZED``.
        own: bytes of the checkpoint's own type, which the scales of groups are in.
    """
    if kind == INT4:
        # Each of the sixteen levels sits in a byte of its own.
        if group := next((size for size in _GROUPS if inputs % size == 0), 0):
            return inputs * outputs + outputs * (inputs // group) * (own_bytes + 1)
    elif kind == INT4_PACKED and can_pack(inputs, outputs):
        return inputs * outputs // 2 + outputs * (inputs // _LARGEST_GROUP) * 2 * own_bytes
    return inputs * outputs + outputs * _OUTPUT_BYTES
