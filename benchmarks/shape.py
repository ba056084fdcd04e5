"""Time and memory of a layer of an 8B model, and by the same formulas a 70B one: ``python -m benchmarks.shape [--json FILE]``.

A layer of Llama-3.1-8B's sizes with random weights runs through the code of a profile: dense pass, moments, solving with the
comparison with A3, a cut. Seconds per token and per layer are measured, the rest is counted. A shape with other sizes is
scaled: passes by parameters, Gram matrices by m² + Z², solving by m³. Nothing is read or written but the moments' file.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from allocator.methods.registry import METHODS
from allocator.plan.effort import EFFORTS, FIT_WINDOWS, GRADIENT_RANKS, MAX_WINDOW_TOKENS
from benchmarks.allocation import ROOT
from benchmarks.layers import SHAPES, LayerShape
from solvers.a3 import moments
from solvers.a3 import solved as findings
from solvers.a3.local import Inside, errors
from solvers.a3.mlp_elimination import OutputGram, eliminate
from solvers.model.surgery import open_model
from tests.support.pages import fill

TOKENS = 512
FIT_TOKENS = FIT_WINDOWS * MAX_WINDOW_TOKENS
LAYERS = {"Llama-3.1-8B": 32, "Llama-3.1-70B": 80}


@dataclass(frozen=True)
class Measured:
    """Seconds of one layer's steps on this machine; ``per_token`` of 512 tokens in windows of 256."""

    shape: str
    threads: int
    pass_s_per_token: float
    moments_s_per_token: float
    eliminate_s: float
    solve_s: float
    mlp_cut_s: float
    moments_bytes: int
    peak_bytes: int


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(shape: LayerShape) -> Measured:
    """One layer, dense weights random."""
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.neurons,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        num_hidden_layers=2,
        vocab_size=1024,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    opened = open_model(LlamaForCausalLM(config).eval())
    ids = torch.randint(1024, (TOKENS // MAX_WINDOW_TOKENS, MAX_WINDOW_TOKENS))
    hidden, calls = opened.start(ids)
    opened.advance(hidden, calls, 0, 1)
    passes, _ = _timed(lambda: opened.advance(hidden, calls, 0, 1))
    moments.layer_moments(opened, 0, hidden, calls[0])
    pass_and_moments, (layer_moments, _) = _timed(lambda: moments.layer_moments(opened, 0, hidden, calls[0]))
    weights = opened.source[0].to(dtype=torch.float64)
    eliminated, _ = _timed(lambda: eliminate(layer_moments.mlp_mm, OutputGram(weights.down_mD), 0.3))
    with torch.no_grad():
        inside = [Inside.of(opened, 0, hidden, calls[0])]
    method = METHODS["a3+"].solve
    solving, solved = _timed(
        lambda: findings.solve(opened, 0, layer_moments, method, inside, dtype=torch.float32)
    )
    solution = findings.solution_of(opened.source[0], layer_moments, method, solved)
    rank = int(0.75 * shape.neurons)
    cut, _ = _timed(lambda: errors(opened, 0, inside, solution, "mlp", rank, torch.float32))
    with tempfile.TemporaryDirectory() as folder:
        moments.save(Path(folder) / "layer", layer_moments)
        size = (Path(folder) / "layer").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(
        shape.name,
        torch.get_num_threads(),
        passes / TOKENS,
        (pass_and_moments - passes) / TOKENS,
        eliminated,
        solving,
        cut,
        size,
        peak,
    )


def counted(measured: Measured, base: LayerShape, shape: LayerShape) -> dict[str, float]:
    """Hours of the stages of a profile from gradients for all layers of a shape, and gigabytes."""
    params = _params(shape) / _params(base)
    grams = (shape.neurons**2 + _values(shape) ** 2) / (base.neurons**2 + _values(base) ** 2)
    cubes = (shape.neurons / base.neurons) ** 3
    layers, effort = LAYERS[shape.name], EFFORTS["gradient"]
    pass_s = measured.pass_s_per_token * params
    tokens = effort.gradient_windows * MAX_WINDOW_TOKENS
    cuts = sum(GRADIENT_RANKS.values())
    # Of each cut half the layers on average, and of each set of windows the dense model, twice.
    factor_passes = effort.factor_windows * (effort.layers * 3 * effort.points / 2 + 2)
    end_passes = effort.ends * ((layers - effort.layers) * 3 / 2 + 2)
    measured_cuts = MAX_WINDOW_TOKENS * (factor_passes + end_passes)
    hours = {
        "moments": layers * FIT_TOKENS * (pass_s + measured.moments_s_per_token * grams) / 3600,
        "solving": layers * measured.solve_s * cubes / 3600,
        "gradients": layers * tokens * (1 + 1 + effort.labels) * pass_s / 3600,
        "local cuts": layers
        * (tokens * 6.8 * pass_s + GRADIENT_RANKS["mlp"] * measured.mlp_cut_s * cubes)
        / 3600,
        "measured cuts": layers * measured_cuts * pass_s / 3600,
    }
    return {
        **hours,
        "profile": sum(hours.values()),
        "cuts": cuts,
        "moments_gb": layers * measured.moments_bytes * grams / 1e9,
        "weights_gb": 2 * layers * _params(shape) / 1e9,
        "layer_peak_gb": measured.peak_bytes * grams / 1e9,
    }


def _params(shape: LayerShape) -> int:
    hidden, heads, kv_heads, size, neurons = shape.sizes
    return hidden * (2 * heads * size + 2 * kv_heads * size + 3 * neurons)


def _values(shape: LayerShape) -> int:
    return shape.heads * shape.head_dim


def table(measured: Measured) -> str:
    """Markdown: hours by stage, gigabytes of moments beside those of the weights in bfloat16, memory of one layer."""
    base = next(shape for shape in SHAPES if shape.name == measured.shape)
    names = ("moments", "solving", "gradients", "local cuts", "measured cuts", "profile")
    lines = [
        f"| shape | {' | '.join(names)}, hours | moments, GB | weights, GB | one layer's peak, GB |",
        "|---" * (len(names) + 4) + "|",
    ]
    for shape in SHAPES:
        if shape.name in LAYERS:
            row = counted(measured, base, shape)
            hours = " | ".join(f"{row[name]:.1f}" for name in names)
            sizes = " | ".join(f"{row[name]:.0f}" for name in ("moments_gb", "weights_gb", "layer_peak_gb"))
            lines.append(f"| {shape.name} ({LAYERS[shape.name]} layers) | {hours} | {sizes} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, or read what was measured, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shape", description=__doc__)
    parser.add_argument("--json", type=Path, help="what was measured; read where it is there")
    parser.add_argument("--fill", action="store_true", help="put the table into docs/explanation/scale.md")
    options = parser.parse_args(argv)
    if options.json is not None and options.json.is_file():
        measured = Measured(**json.loads(options.json.read_text(encoding="utf-8")))
    else:
        measured = measure(next(shape for shape in SHAPES if shape.name == "Llama-3.1-8B"))
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(measured), indent=1), encoding="utf-8")
    if options.fill:
        fill(ROOT / "docs" / "explanation" / "scale.md", {"shape": table(measured)})
    sys.stdout.write(json.dumps(asdict(measured)) + "\n\n" + table(measured) + "\n")


if __name__ == "__main__":
    main()
