"""A model with profiles made by real jobs in a home of its own, and whole-model losses of any ranks beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from allocator.base.settings import Settings
from allocator.jobs.inline import run_inline
from allocator.jobs.submit import submit
from allocator.plan.documents import profile as documents
from allocator.plan.documents.curve import Curve
from allocator.plan.effort import evaluated
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from allocator.profiling.divergence import DenseDistribution
from allocator.profiling.likelihood import nll_nats
from allocator.profiling.logits import batches
from allocator.profiling.needs import LayerNeeds
from allocator.stages.facts import facts_of, geometry_of, job_identity
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.pipeline import JobView
from allocator.stages.profile_units import layers_of
from allocator.stages.request import Request
from allocator.stages.solving import layer_solution
from allocator.stages.sources import PATH
from allocator.store import Store
from benchmarks.allocation import Case
from solvers.a3.feedback import compress_with_feedback
from solvers.checkpoints.writing import held_in, stored
from solvers.texts.text import read_text, spread_order
from solvers.weights import LayerWeights

TEAM = "default"

References = list[tuple[torch.Tensor, DenseDistribution]]
"""Batches of windows, each with the dense model's distribution."""


@dataclass(frozen=True)
class Finished:
    """A job that has ended, for reading its inputs and measuring (``MeasuringContext``)."""

    job: JobView
    store: Store
    settings: Settings

    def progress(self, done: int, total: int, unit: str) -> None:
        """Nobody waits for any."""

    def heartbeat(self) -> None:
        """Nobody waits for one."""


@dataclass(frozen=True)
class Profile:
    """The results of a profile job in the store."""

    finished: Finished
    document: documents.Profile

    @property
    def curves(self) -> tuple[Curve, ...]:
        return self.document.curves

    @cached_property
    def layers(self) -> list[LayerNeeds]:
        """The cuts that the effort measures in each layer."""
        return layers_of(self.finished.job)

    @property
    def passes(self) -> int:
        """Forward passes of this very job; a restarted, partial one counts as one."""
        return self.finished.job.result("assemble")["forward_passes"]

    def units(self) -> list[dict[str, dict[str, Any]]]:
        """The measured losses of each layer that this effort may use and that the store has by now."""
        units = self.finished.store.units
        return [units.get_many(TEAM, layer.keys()[1:]) for layer in self.layers]


class Home:
    """A store of its own for one model: jobs run here share moments and units with each other, with nothing else."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        settings = Settings(home=folder)
        # Stages would take all cores where nothing else is said.
        self._settings = settings.model_copy(update={"threads": settings.threads or torch.get_num_threads()})
        self._store = Store.open(self._settings, create=True)

    def close(self) -> None:
        self._store.close()

    def profile(self, effort: str, bits: Sequence[int] = ()) -> Profile:
        """Run a job of kind ``profile`` to its end, in this process, with the default solver."""
        fields: dict[str, Any] = {
            "model": PATH + str(self.case.folder.resolve()),
            "calibration": PATH + str(self.case.calibration.resolve()),
            "effort": effort,
            **({"bits": list(bits)} if bits else {}),
        }
        store, settings, request = self._store, self._settings, Request.stored("profile", fields)
        job_id = submit(store, settings, team=TEAM, request=request, created_by=TEAM, inline=True)
        state = run_inline(store, settings, job_id)
        job = store.jobs.get(TEAM, job_id)
        if state != "succeeded":
            raise SystemExit(f"{self.case.name}: {effort} profile {state}: {job.error}")
        view = JobView(job.id, job.team, request, store.items.results(job.id))
        document = store.profiles.get(TEAM, view.result("assemble")["profile_key"])
        return Profile(Finished(view, store, settings), document)


class Model:
    """The profiled model with every layer solved once; ranks become whole models, and these are measured."""

    def __init__(self, profile: Profile, case: Case) -> None:
        context = profile.finished
        self._case = case
        self._text = calibration_text(context)
        self._facts = facts_of(context.job)
        self.dtype = getattr(torch, self._facts["storage_dtype"])
        self._effort_windows = job_identity(context.job).effort.most_windows
        self.geometry: Geometry = geometry_of(context.job)
        self.costs = CostModel(self.geometry)
        self.opened = open_source(context)
        self.solutions = [
            layer_solution(context, self.opened, layer) for layer in range(self.geometry.layers)
        ]
        self._references: dict[int, References] = {}

    def one_shot(self, ranks: Ranks) -> list[LayerWeights]:
        """Every layer at its ranks, aimed at the dense layer on dense inputs, in the checkpoint's type."""
        return [stored(self._one_shot(ranks, layer), self.dtype) for layer in range(self.geometry.layers)]

    def delivered(self, ranks: Ranks) -> list[LayerWeights]:
        """Every layer as a compress job writes it: with error feedback, in the checkpoint's type, as it is held in its bits."""
        bits = ranks.widths()
        layers, _ = compress_with_feedback(
            self.opened,
            self._text.fit(self._facts["calibration"]["fit_windows"]),
            lambda layer: self._one_shot(ranks, layer),
            keep=lambda weights, record: weights.to(dtype=self.dtype),
            held=held_in(bits, self.dtype),
        )
        return [stored(layer, self.dtype, layer_bits) for layer, layer_bits in zip(layers, bits, strict=True)]

    def _one_shot(self, ranks: Ranks, layer: int) -> LayerWeights:
        return self.solutions[layer].compressed(**{c: ranks.of(c)[layer] for c in COMPONENTS})

    def kl(self, layers: Sequence[LayerWeights], windows: int) -> list[float]:
        """KL to the dense model of each of the first ``windows`` measure windows, nats/token."""
        return self.kl_to(self._against(windows), layers)

    def kl_to(self, references: References, layers: Sequence[LayerWeights]) -> list[float]:
        """KL to the dense model of each window that it was kept of, nats/token."""
        values: list[float] = []
        with self._put(layers), torch.no_grad():
            logits = self.opened.logits([part for part, _ in references])
            for (_, reference), other in zip(references, logits, strict=True):
                values += reference.kl_per_window(other).tolist()
        return values

    @torch.no_grad()
    def references(self, windows: torch.Tensor) -> References:
        """Windows (W, T) in batches, each with the dense model's distribution: 8 bytes for every token and word."""
        parts = list(batches(windows, self.geometry.vocab))
        return list(zip(parts, map(DenseDistribution, self.opened.logits(parts)), strict=True))

    def evaluation(self, count: int) -> torch.Tensor:
        """So many windows, evenly spread over those of the evaluation text that final figures are taken over."""
        windows, _ = self._evaluation
        return windows[spread_order(len(windows))[:count]]

    def predicting(self, count: int) -> torch.Tensor:
        """The first measure windows (W, T): those that curves are predicted on."""
        return self._text.measure(count)

    def loss(self, layers: Sequence[LayerWeights]) -> float:
        """Mean KL to the dense model on all measure windows of the effort, nats/token."""
        return fmean(self.kl(layers, self._effort_windows))

    def rise(self, layers: Sequence[LayerWeights]) -> float:
        """Nats/token lost against the dense model on the evaluation text."""
        dense = self._dense_nats
        with self._put(layers):
            return self._nats() - dense

    @contextmanager
    def _put(self, layers: Sequence[LayerWeights]) -> Iterator[None]:
        """The model with these layers; dense again afterwards."""
        try:
            for index, layer in enumerate(layers):
                self.opened.put(index, layer)
            yield
        finally:
            for index in range(len(layers)):
                self.opened.reset(index)

    def _against(self, windows: int) -> References:
        """References on the measure windows; kept, since every plan needs them."""
        if windows not in self._references:
            self._references = {windows: self.references(self._text.measure(windows))}
        return self._references[windows]

    def _nats(self) -> float:
        windows, prefix = self._evaluation
        return nll_nats(self.opened, windows, self.geometry.vocab, prefix=prefix, tick=lambda: None)

    @cached_property
    def _dense_nats(self) -> float:
        return self._nats()

    @cached_property
    def _evaluation(self) -> tuple[torch.Tensor, int]:
        text = read_text(
            self._case.evaluation, self._case.folder, window=self._facts["window_tokens"], what="evaluation"
        )
        return evaluated(text.windows), len(text.prefix)
