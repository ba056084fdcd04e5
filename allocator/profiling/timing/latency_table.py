"""Time a model's components at several ranks on this machine: whole compact models, through the code that will run them.

A few layers of the model's shape with random weights (time does not hang on them) are built at many ranks and take turns,
first to last and back; every time is taken relative to the dense model's of the same turn, so that a change of the machine's
load falls on both. Ranks are changed in all layers at once and the difference divided by their number.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.latency import LATENCY_SCHEMA, Workload, sealed
from allocator.profiling.timing.design import CHECKS, DENSE, Design, ModelName
from allocator.profiling.timing.models import Setup
from allocator.profiling.timing.passes import times_at
from allocator.profiling.timing.staircase import time_staircase
from solvers.families import FAMILIES

_HALF: ModelName = ("half", 0)


def measured_table(
    setup: Setup,
    places: Sequence[Workload],
    on_turn: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The table of a model at these (batch, context, phase)s, with its digest.

    Args:
        on_turn: called after every turn of one model with how many are done, and of how many.
    """
    design, depth = Design(setup), setup.depth
    models = {name: setup.at(depth, ranks) for name, ranks in design.models.items()}
    half = max(1, depth // 2)
    if depth < setup.geometry.layers:
        models[_HALF] = setup.at(half, design.models[DENSE])
    timings = [
        _timing(setup, design, place, _Times(times), half)
        for place, times in times_at(setup, models, places, on_turn)
    ]
    return sealed(
        {
            "schema": LATENCY_SCHEMA,
            "geometry": setup.geometry.document,
            "dtype": str(setup.dtype).removeprefix("torch."),
            "attention": FAMILIES[setup.config.model_type].attention_implementation,
            "layers_measured": depth,
            "rounds": setup.rounds,
            "machine": machine(setup.device),
            "timings": timings,
        }
    )


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that times depend on, without names of hosts or people."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()
    return {
        "device": device.type,
        "name": name[:200],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


class _Times:
    """Medians of all models' times relative to the dense model's of the same turn, and their quartile distances."""

    def __init__(self, times: dict[ModelName, list[float]]) -> None:
        dense = times[DENSE]
        self.dense_s = statistics.median(dense)
        low, _, high = statistics.quantiles(dense, n=4, method="inclusive")
        self.dense_spread_s = high - low
        self.median: dict[ModelName, float] = {}
        self.spread: dict[ModelName, float] = {}
        for name, model_times in times.items():
            relative = [a / b for a, b in zip(model_times, dense, strict=True)]
            low, self.median[name], high = statistics.quantiles(relative, n=4, method="inclusive")
            self.spread[name] = high - low


def _timing(setup: Setup, design: Design, place: Workload, times: _Times, half: int) -> dict[str, Any]:
    """A row of the table, all in nanoseconds of the whole model."""
    depth = setup.depth
    stairs = time_staircase(design, times.median.__getitem__, depth)

    def ns(relative: float) -> int:
        return round(relative * times.dense_s * 1e9)

    # Layers that were not built take what the second half of the built ones takes; their parts are counted by their ranks,
    # so of such a layer the constant gets what it takes at the smallest ones.
    unbuilt, dense, constant = setup.geometry.layers - depth, 1.0, stairs.constant
    if unbuilt:
        layer = max((1 - times.median[_HALF]) / (depth - half), 0.0)
        dense += unbuilt * layer
        constant += unbuilt * max(layer - (1 - stairs.constant) / depth, 0.0)
    return {
        "batch": place[0],
        "context": place[1],
        "phase": place[2],
        "dense_ns": max(ns(dense), 1),
        "dense_spread_ns": round(times.dense_spread_s * 1e9),
        "constant_ns": ns(constant),
        "parts": {
            c: [
                {"rank": rank, "ns": ns(height), "spread_ns": ns(times.spread[c, rank] / depth)}
                for rank, height in zip(design.ranks[c], stairs.heights[c], strict=True)
            ]
            for c in COMPONENTS
        },
        "checks": [
            {
                "share": share,
                "measured_ns": ns(times.median["check", share]),
                "spread_ns": ns(times.spread["check", share]),
                "predicted_ns": ns(stairs.of(design.models["check", share], depth)),
            }
            for share in CHECKS
        ],
    }
