"""Solve time of one layer, all ranks, against the paper's literal procedure, and the memory it takes.

    python -m benchmarks.solver_speed [--quick] [--device cuda]

Both sides start from moments and weights (random ones: only sizes matter to time); collecting moments is in neither. The
literal side takes hours at full size, so its pieces (one root, one head, one group) are timed on a ladder of sizes, and a layer
is so many pieces. Beyond the ladder it is extrapolated by the exponent fitted to its last three sizes, but at most 3.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import literal
from benchmarks.layers import SHAPES, LayerShape, random_layer, random_moment
from solvers.a3.mlp import solve_mlp
from solvers.a3.mlp_elimination import solve_mlp_refit
from solvers.a3.ov import solve_ov
from solvers.a3.ov_joint import solve_ov_joint
from solvers.a3.qk import solve_qk
from solvers.a3.qk_gains import solve_qk_steps
from solvers.a3.steps import A3_PLUS

LADDER = (256, 512, 1024, 2048, 4096)
NEURONS = (1024, 2048, 4096, 11008, 14336)
QUICK = 2048
"""``--quick`` times nothing larger."""
HALF_7B = LayerShape("half of LLaMA-7B", 2048, 16, 16, 128, 5504)
"""Memory is measured on it."""
_HEAD = 128
_KEPT = 0.75
"""The rank at which refits are timed, as a share of full rank."""


def seconds(work: Callable[[], Any], device: str, *, fewest: int = 2) -> float:
    """Shortest of at least so many runs, one if it takes over ten seconds, and of as many more as fit into two seconds."""
    best, spent, runs = math.inf, 0.0, 0
    while (runs < fewest and spent < 10) or (runs < 10 and spent < 2):
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        took = time.perf_counter() - started
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best


def exponent(times: dict[int, float]) -> float:
    """Least-squares slope of log time over log size, over the three largest sizes."""
    points = torch.tensor(sorted(times.items())[-3:], dtype=torch.float64).log()
    size, log_seconds = (points - points.mean(0)).unbind(1)
    return float((size * log_seconds).sum() / size.square().sum())


def literal_pieces(ladder: tuple[int, ...], device: str) -> dict[str, dict[int, float]]:
    """Seconds of every piece of the paper's procedure at every size."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64, device=device)
    times: dict[str, dict[int, float]] = {}
    for size in ladder:
        moment = random_moment(size, device)
        root, left, roots = literal.root(moment)
        inverse = left / roots @ left.T
        thin, wide = normal(size, _HEAD), normal(_HEAD, 8 * size)
        works = {
            "root": partial(literal.root, moment),
            "qk_head": partial(literal.qk_head, root, inverse, thin, normal(size, _HEAD)),
            "ov_head": partial(literal.ov_head, root, left, roots, thin, wide[:, :size]),
            "ov_group_4": partial(literal.ov_group, root, inverse, thin, wide[:, : 4 * size]),
            "ov_group_8": partial(literal.ov_group, root, inverse, thin, wide),
        }
        for name, work in works.items():
            times.setdefault(name, {})[size] = seconds(work, device)
    return times


def seconds_at(times: dict[int, float], size: int) -> float:
    """Seconds at ``size``: as timed, or the largest timed size carried on by the fitted exponent, at most 3."""
    largest = max(times)
    return times.get(size) or times[largest] * (size / largest) ** min(exponent(times), 3)


def literal_layer(shape: LayerShape, pieces: dict[str, dict[int, float]], hidden: int) -> dict[str, float]:
    """Seconds of the paper's procedure for a layer with the shape's heads, at a hidden size; the MLP at the shape's own.

    What rotary QK and the MLP do with their roots (norms of columns) is left out, in the paper's favour.
    """
    piece = {name: seconds_at(times, hidden) for name, times in pieces.items()}
    group = shape.heads // shape.kv_heads
    return {
        "qk": piece["root"] + shape.heads * piece["qk_head"],
        "qk_rotary": piece["root"],
        "ov": shape.heads * (piece["root"] + piece["ov_head"])
        if group == 1
        else piece["root"] + shape.kv_heads * piece[f"ov_group_{group}"],
        "mlp": seconds_at(pieces["root"], shape.neurons),
    }


def attention_times(shape: LayerShape, device: str) -> dict[str, dict[str, float]]:
    """Seconds of ours at full shape: ``a3``, ``a3+`` and, for OV, the refit at one rank."""
    times: dict[str, dict[str, float]] = {}
    for name, rotary in (("qk", False), ("qk_rotary", True)):
        if name == "qk" and shape.kv_heads < shape.heads:
            continue  # no such model: grouped queries came with rotary positions
        weights, moments = random_layer(shape, device, rotary=rotary, neurons=0)
        times[name] = {
            "a3": seconds(partial(solve_qk, moments), device),
            "a3+": seconds(partial(solve_qk_steps, moments, A3_PLUS), device),
        }
    refit = solve_ov_joint(weights, moments, heads=True, joint=True)
    times["ov"] = {
        "a3": seconds(partial(solve_ov, weights, moments), device),
        "a3+": seconds(partial(solve_ov_joint, weights, moments, heads=True, joint=True), device),
        "refit": seconds(partial(refit.apply, weights, int(_KEPT * shape.head_dim)), device, fewest=1),
    }
    return times


def mlp_times(neurons: tuple[int, ...], device: str) -> dict[str, dict[int, float]]:
    """Seconds of ours: A3's order, the elimination order, a refit at one rank; the hidden size is 3/8 of the neurons."""
    times: dict[str, dict[int, float]] = {"a3": {}, "a3+": {}, "refit": {}}
    for size in neurons:
        shape = LayerShape("ladder", 3 * size // 8, 1, 1, 8, size)
        weights, moments = random_layer(shape, device, rotary=True, neurons=size)
        solve = partial(solve_mlp_refit, weights, moments, refit=True)
        times["a3"][size] = seconds(partial(solve_mlp, weights, moments), device)
        times["a3+"][size] = seconds(partial(solve, order=True), device)
        times["refit"][size] = seconds(partial(solve(order=False).apply, weights, int(_KEPT * size)), device)
    return times


def peak(shape: LayerShape) -> dict[str, float]:
    """``benchmarks.layers.solving_bytes``, measured in a process of its own."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.layers", *map(str, shape.sizes)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(process.stdout)


@dataclass(frozen=True)
class _Carried:
    """Our own times carried on beyond the ladder: by their exponent, but at least the 3 of the operation count."""

    times: dict[int, float]

    def seconds_at(self, size: int) -> tuple[float, bool]:
        largest = max(self.times)
        if size in self.times:
            return self.times[size], True
        return self.times[largest] * (size / largest) ** max(exponent(self.times), 3), False


def run(
    *,
    ladder: tuple[int, ...] = LADDER,
    neurons: tuple[int, ...] = NEURONS,
    shapes: tuple[LayerShape, ...] = SHAPES,
    memory: LayerShape | None = HALF_7B,
    device: str = "cpu",
) -> dict[str, Any]:
    """All of it: seconds (for the raw report only), ratios and exponents (for the tables)."""
    pieces, ours = literal_pieces(ladder, device), mlp_times(neurons, device)
    rows = []
    for shape in shapes:
        bound, full = (literal_layer(shape, pieces, size) for size in (max(ladder), shape.hidden))
        for component, times in attention_times(shape, device).items():
            rows.append(
                {
                    "shape": shape.name,
                    "component": component,
                    "bound": {
                        name: bound[component] / seconds_taken for name, seconds_taken in times.items()
                    },
                    "extrapolated": {
                        name: full[component] / seconds_taken for name, seconds_taken in times.items()
                    },
                    "literal_measured": shape.hidden in ladder,
                    "ours_measured": True,
                    "seconds": times,
                }
            )
        carried = {name: _Carried(times).seconds_at(shape.neurons) for name, times in ours.items()}
        shared = max(set(pieces["root"]) & set(neurons))
        rows.append(
            {
                "shape": shape.name,
                "component": "mlp",
                "bound": {name: pieces["root"][shared] / times[shared] for name, times in ours.items()},
                "extrapolated": {
                    name: full["mlp"] / seconds_taken for name, (seconds_taken, _) in carried.items()
                },
                "literal_measured": shape.neurons in ladder,
                "ours_measured": carried["a3+"][1],
                "seconds": {name: seconds_taken for name, (seconds_taken, _) in carried.items()},
            }
        )
    seconds_taken = peak(memory) if memory is not None and device == "cpu" else {}
    return {"literal": pieces, "mlp": ours, "rows": rows, "memory": seconds_taken, "device": device}


_NAMES = {"qk": "QK, no rotary", "qk_rotary": "QK, rotary", "ov": "OV", "mlp": "MLP"}
_LITERAL = ("root", "qk_head", "ov_head", "ov_group_4", "ov_group_8")


def table(results: dict[str, Any]) -> str:
    """Markdown: ratios per layer, both growth curves, memory. No seconds: those are of one machine."""
    ladder, neurons = sorted(results["literal"]["root"]), sorted(results["mlp"]["a3"])
    shared = max(set(results["literal"]["root"]) & set(neurons))
    lines = [
        f"| layer | component | literal at {max(ladder)} / `a3` | / `a3+` | literal at full size / `a3` | / `a3+` | / refit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        bound, full = row["bound"], row["extrapolated"]
        mark = "" if row["literal_measured"] else " (e)" if row["ours_measured"] else " (e/e)"
        name = _NAMES[row["component"]] + (
            f" (left: both at m = {shared})" if row["component"] == "mlp" else ""
        )
        refit = f"{full['refit']:,.0f}{mark}" if "refit" in full else ""
        lines.append(
            f"| {row['shape']} | {name} | {bound['a3']:,.0f} | {bound['a3+']:,.1f} "
            f"| {full['a3']:,.0f}{mark} | {full['a3+']:,.0f}{mark} | {refit} |"
        )
    sizes = sorted({*ladder, *neurons})
    curves = {f"literal, {name}": results["literal"][name] for name in _LITERAL}
    curves |= {f"ours, MLP {name}": results["mlp"][name] for name in ("a3", "a3+", "refit")}
    lines += [
        "",
        "| piece | " + " | ".join(map(str, sizes)) + " | exponent |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for name, times in curves.items():
        cells = [f"{times[size] / min(times.values()):.3g}" if size in times else "" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {exponent(times):.1f} |")
    if memory := results["memory"]:
        given_bytes = memory["weights"] + memory["moments"]
        lines += [
            "",
            "| resident memory, one layer of half LLaMA-7B's sizes | in its moments' bytes |",
            "|---|---|",
            f"| float32 weights and moments, as given | {given_bytes / memory['moments']:.2f} |",
            f"| solving all ranks of `a3+`, at its peak | + {memory['solve'] / memory['moments']:.2f} |",
            f"| and refits at one rank | + {memory['solve_and_refit'] / memory['moments']:.2f} |",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the sizes that take minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    largest = QUICK if options.quick else max(NEURONS)
    ladder, neurons = (tuple(size for size in sizes if size <= largest) for sizes in (LADDER, NEURONS))
    result = run(ladder=ladder, neurons=neurons, device=options.device)
    sys.stdout.write(json.dumps(result, indent=1) + "\n\n" + table(result) + "\n")
