"""Random layers of known shapes: weights and moments to time the solvers on, and the memory that solving takes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from solvers.a3.compress import solve_layer
from solvers.a3.moments import LayerMoments
from solvers.a3.steps import A3_PLUS
from solvers.weights import LayerWeights

_TOKENS = 1 << 18


@dataclass(frozen=True)
class LayerShape:
    """The integers of one layer."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        return self.hidden, self.heads, self.kv_heads, self.head_dim, self.neurons


SHAPES = (
    LayerShape("LLaMA-7B", 4096, 32, 32, 128, 11008),
    LayerShape("Llama-3.1-8B", 4096, 32, 8, 128, 14336),
    LayerShape("Llama-3.1-70B", 8192, 64, 8, 128, 28672),
)


def random_moment(size: int, device: str = "cpu", batch: tuple[int, ...] = ()) -> torch.Tensor:
    """A full-rank second moment (..., n, n) of quickly falling energies, in float64."""
    generator = torch.Generator(device).manual_seed(size)
    rows = max(8, size // 8)
    states = torch.randn(*batch, rows, size, generator=generator, device=device, dtype=torch.float64)
    states *= torch.logspace(0, -1.5, size, device=device, dtype=torch.float64) / rows**0.5
    moment = states.mT @ states
    moment.diagonal(dim1=-2, dim2=-1).mul_(1.1).add_(1e-4)
    return moment


def random_layer(
    shape: LayerShape, device: str = "cpu", *, rotary: bool, neurons: int, dtype: torch.dtype = torch.float64
) -> tuple[LayerWeights, LayerMoments]:
    """Weights and moments of the shape with so many neurons (0: a layer whose MLP is left alone)."""
    generator = torch.Generator(device).manual_seed(1)
    hidden, heads, kv_heads, size, _ = shape.sizes

    def normal(*sizes: int) -> torch.Tensor:
        scale = hidden**-0.5
        return torch.randn(*sizes, generator=generator, device=device, dtype=dtype).mul_(scale)

    half = size // 2
    pairs = torch.arange(half, device=device).expand(kv_heads, half)
    weights = LayerWeights(
        q_DHr=normal(hidden, heads, size),
        k_DKr=normal(hidden, kv_heads, size),
        v_DKr=normal(hidden, kv_heads, size),
        o_HrD=normal(heads, size, hidden),
        up_Dm=normal(hidden, neurons),
        gate_Dm=normal(hidden, neurons),
        down_mD=normal(neurons, hidden),
        pairs=pairs if rotary else None,
    )
    small = {
        "q_Hhh": (heads,),
        "k_Khh": (kv_heads,),
        "v_Khh": (kv_heads,),
        **({"q_rotated_Khh": (kv_heads,), "k_rotated_Khh": (kv_heads,)} if rotary else {}),
        **({"pair_gram_HFF": (heads,)} if rotary else {"key_covariance_Hhh": (heads,)}),
    }
    small_moments = {name: random_moment(size, device, batch) * _TOKENS for name, batch in small.items()}
    large_moments = {
        "z_ZZ": random_moment(heads * size, device).mul_(_TOKENS),
        "mlp_mm": random_moment(neurons, device).mul_(_TOKENS) if neurons else normal(0, 0).double(),
    }
    sums = {name: torch.zeros(len(large_moments[moment]), device=device, dtype=torch.float64)
            for name, moment in (("z_Z", "z_ZZ"), ("mlp_m", "mlp_mm"))}  # fmt: skip
    return weights, LayerMoments(count=_TOKENS, **small_moments, **large_moments, **sums)


def _resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = re.search(rf"{name}:\s*(\d+) kB", status)
    assert line is not None, f"no {name} in /proc/self/status"
    return int(line[1]) * 1024


def solving_bytes(shape: LayerShape) -> dict[str, float]:
    """Bytes of a layer's float32 weights and its moments, and by how much solving it for all ranks raises resident memory."""
    weights, moments = random_layer(shape, rotary=True, neurons=shape.neurons, dtype=torch.float32)
    solve_layer(*random_layer(LayerShape("warm", 64, 4, 4, 16, 64), rotary=True, neurons=64), A3_PLUS)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
    before = _resident("VmRSS")
    solution = solve_layer(weights, moments, A3_PLUS)
    solving = _resident("VmHWM") - before
    solution.compressed(mlp=int(0.75 * shape.neurons), ov=int(0.75 * shape.head_dim))
    return {
        "weights": sum(t.nbytes for t in vars(weights).values() if t is not None),
        "moments": sum(t.nbytes for t in moments.tensors().values()),
        "solve": solving,
        "solve_and_refit": _resident("VmHWM") - before,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(solving_bytes(LayerShape("asked", *map(int, sys.argv[1:])))))
