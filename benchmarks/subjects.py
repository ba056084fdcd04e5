"""Trained models with the windows that every quality table fits and evaluates on: the same ones for all methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from allocator.plan.effort import MAX_WINDOW_TOKENS, evaluated, windows_scale
from allocator.plan.model.geometry import Geometry
from allocator.profiling.likelihood import nll_nats
from benchmarks.allocation import Case, cases
from benchmarks.train_small import NAMES, trained
from solvers.checkpoints import reading
from solvers.model.surgery import OpenModel, open_model
from solvers.texts.text import read_text
from solvers.weights import LayerWeights
from tests.support.cuts import STANDARD_FIT_WINDOWS, geometry_of


@dataclass(frozen=True)
class Subject:
    """A loaded model; ``fit`` and ``evaluation`` are (W, T) token ids of disjoint texts, the first ``prefix`` ids given."""

    name: str
    dense: Any
    """The stock model in float32."""
    opened: OpenModel
    """The same model with layers that can be exchanged."""
    geometry: Geometry
    fit: torch.Tensor
    evaluation: torch.Tensor
    prefix: int

    def nats(self, model: Any) -> float:
        """Nats/token on the evaluation windows."""
        return nll_nats(model, self.evaluation, self.geometry.vocab, prefix=self.prefix, tick=lambda: None)

    @cached_property
    def dense_nats(self) -> float:
        return self.nats(self.dense)

    def rise(self, model: Any) -> float:
        """Nats/token lost against the dense model."""
        return self.nats(model) - self.dense_nats

    def rise_of(self, layers: Sequence[LayerWeights]) -> float:
        """Nats/token lost with these layers in place."""
        try:
            for index, layer in enumerate(layers):
                self.opened.put(index, layer)
            return self.rise(self.opened.model)
        finally:
            for index in range(len(layers)):
                self.opened.reset(index)


def subject(case: Case) -> Subject:
    """Load a case: at most 192 windows of 256 tokens to fit on, or as many tokens in shorter windows, and 256 to evaluate."""
    inspected = reading.inspect(case.folder)
    dense, opened = reading.load(inspected), open_model(reading.load(inspected))
    window = min(MAX_WINDOW_TOKENS, inspected.sizes["positions"])
    texts = [
        read_text(path, case.folder, window=window, what=what)
        for path, what in ((case.calibration, "calibration"), (case.evaluation, "evaluation"))
    ]
    fit, evaluation = texts
    longer = windows_scale(fit.windows.shape[1])
    return Subject(
        name=case.name,
        dense=dense,
        opened=opened,
        geometry=geometry_of(opened, torch.float32),
        fit=fit.fit(STANDARD_FIT_WINDOWS * longer),
        evaluation=evaluated(evaluation.windows),
        prefix=len(evaluation.prefix),
    )


def subjects(work: Path, models: Path, names: list[str] | None = None) -> Iterator[Subject]:
    """All models of ``benchmarks.allocation.cases`` and the two trained into ``models``, loaded one after the other."""
    for case in cases(work):
        if not names or case.name in names:
            yield subject(case)
    for name in NAMES:
        if not names or name in names:
            yield subject(trained(name, models))
