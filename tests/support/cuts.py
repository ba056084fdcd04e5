"""Uniform cuts of a trained model by ``a3+``, straight through the solvers: no profile, no program, no service."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import torch

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.baselines import uniform
from allocator.plan.effort import FIT_WINDOWS, MAX_WINDOW_TOKENS
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.ranks import Ranks
from solvers.a3 import moments
from solvers.a3.compress import solve_layer
from solvers.a3.feedback import compress_with_feedback
from solvers.a3.steps import A3_PLUS
from solvers.checkpoints import reading
from solvers.checkpoints.writing import stored, write_compact
from solvers.model.surgery import OpenModel, open_model
from solvers.quantization import packing_steps
from solvers.texts.text import Text, read_text
from solvers.weights import LayerWeights

STANDARD_FIT_WINDOWS = FIT_WINDOWS
_BATCH = 8


@dataclass(frozen=True)
class Cut:
    """A model cut to uniform ranks, beside its dense source."""

    source: Path
    dense: Any
    """The stock model in float32."""
    opened: OpenModel
    """The same weights, layer by layer."""
    layers: list[LayerWeights]
    ranks: Ranks
    geometry: Geometry
    calibration: Text
    evaluation: Text
    dtype: torch.dtype
    seconds: float
    """What moments, solving and cutting took."""

    def write(self, folder: Path) -> Path:
        """The compact checkpoint in ``folder``."""
        write_compact(self.opened, self.layers, folder, source=self.source, dtype=self.dtype)
        return folder


def geometry_of(opened: OpenModel, dtype: torch.dtype) -> Geometry:
    """The integers that budgets are counted in."""
    return Geometry(
        **opened.family.geometry(opened.config),
        total_params=sum(parameter.numel() for parameter in opened.model.parameters()),
        bytes_per_param=dtype.itemsize,
    )


class _Packable(Geometry):
    """The same model, its ranks in steps at which every layer can be packed to four bits."""

    def step(self, component: Component) -> int:
        return lcm(super().step("qk") if component == "qk" else 1, self._steps[component])

    @property
    def _steps(self) -> dict[str, int]:
        return packing_steps(heads=self.heads, kv_heads=self.kv_heads)


def cut(
    folder: Path,
    calibration: Path,
    evaluation: Path,
    *,
    block_params: str,
    fit_windows: int = STANDARD_FIT_WINDOWS,
    packable: bool = False,
) -> Cut:
    """``a3+`` at the largest uniform ratio within ``block_params`` (a fraction as a budget writes it), on fit windows only.

    ``packable`` floors ranks to multiples that suit packed four-bit weights.
    """
    inspected = reading.inspect(folder)
    dtype = reading.storage_dtype(inspected)
    window = min(MAX_WINDOW_TOKENS, inspected.sizes["positions"])
    text = read_text(calibration, folder, window=window, what="calibration")
    held_out = read_text(evaluation, folder, window=window, what="evaluation")
    dense, opened = reading.load(inspected), open_model(reading.load(inspected))
    geometry = geometry_of(opened, dtype)
    steps = _Packable.stored(geometry.document) if packable else geometry
    ranks = uniform(CostModel(steps), parse_budgets([f"block_params={block_params}"]))
    assert ranks is not None
    started = time.perf_counter()
    windows = text.fit(fit_windows)
    solutions = [
        solve_layer(opened.source[index], found, A3_PLUS)
        for index, found in enumerate(moments.by_layer(opened, windows.split(_BATCH)))
    ]
    layers, _ = compress_with_feedback(
        opened,
        windows,
        lambda index: solutions[index].compressed(**{c: ranks.of(c)[index] for c in COMPONENTS}),
    )
    layers = [stored(layer, dtype) for layer in layers]
    for index, layer in enumerate(layers):
        opened.put(index, layer)
    spent = time.perf_counter() - started
    return Cut(folder, dense, opened, layers, ranks, geometry, text, held_out, dtype, spent)
