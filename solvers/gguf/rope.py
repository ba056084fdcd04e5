"""Rotary frequencies as llama.cpp computes them, from the same functions of transformers that the checkpoint runs with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from solvers.errors import UnsupportedModelError
from solvers.gguf.architectures import FACTORED, Shape

_FULL, _SLIDING = "full_attention", "sliding_attention"
_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_KNOWN = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    """``theta`` of layers without a window, ``sliding_theta`` of those with one. Scaling is of the former alone."""

    theta: float
    sliding_theta: float
    kind: str
    parameters: dict[str, Any]
    factors: np.ndarray | None
    """Divisors of the frequencies (``rope_freqs``), (head_dim / 2,) float32."""
    attention_factor: float
    """The factor of cos and sin in yarn."""

    def add_to(self, writer: GGUFWriter, shape: Shape, architecture: MODEL_ARCH) -> None:
        """Write the keys."""
        dim = shape.head_dim
        # step35 rotates half of what this names, but for layers with a window: src/models/step35.cpp, load_arch_hparams.
        halved = architecture is MODEL_ARCH.STEP35
        writer.add_rope_dimension_count(2 * dim if halved else dim)
        writer.add_rope_freq_base(self.theta)
        if halved or any(shape.windows):
            writer.add_rope_freq_base_swa(self.sliding_theta)
            writer.add_rope_dimension_count_swa(dim)
        if self.kind == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.parameters["factor"])
        if self.kind == "yarn":
            factor = self.parameters["factor"]
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(factor)
            writer.add_rope_scaling_orig_ctx_len(self.parameters["original_max_position_embeddings"])
            # llama.cpp makes it 1 + ln(factor) / 10 times this (llama-context.cpp), whatever else the file says.
            writer.add_rope_scaling_attn_factors(self.attention_factor / (1 + 0.1 * math.log(factor)))


def rope_of(config: Any, shape: Shape, architecture: MODEL_ARCH) -> Rope:
    """The checkpoint's frequencies.

    Raises:
        UnsupportedModelError: scaled in a way that the graph does not know.
    """
    named = config.rope_parameters
    full = named.get(_FULL, named) if isinstance(named.get(_FULL), dict) else named
    sliding = named.get(_SLIDING) if isinstance(named.get(_SLIDING), dict) else full
    kind = full.get("rope_type", "default")
    if kind not in _KNOWN or (sliding is not full and sliding.get("rope_type", "default") != "default"):
        raise _refused(str(kind if kind not in _KNOWN else sliding["rope_type"]), f"{', '.join(_KNOWN)} are")
    if kind != "default" and sliding is full and any(shape.windows):
        raise _refused(kind, "layers with a window are not scaled there, and here they are")
    factors, attention_factor = None, 1.0
    if kind == "llama3":
        if architecture not in FACTORED:
            raise _refused(kind, f"llama.cpp's {architecture.name.lower()} reads no factors of frequencies")
        plain = 1.0 / full["rope_theta"] ** (
            np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
        )
        scaled, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        factors = (plain / scaled.double().numpy()).astype(np.float32)
    if kind == "yarn":
        for name, only in _YARN.items():
            if (full.get(name) or only) != only or full.get(name) is False:
                raise _refused(
                    kind, f"{name} is {full[name]}, and these graphs of llama.cpp know {only} alone"
                )
        _, attention_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    return Rope(full["rope_theta"], sliding["rope_theta"], kind, dict(full), factors, attention_factor)


def _refused(kind: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"gguf: rotary positions of type {kind!r} are not written: {why}")
