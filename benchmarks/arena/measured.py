"""A profiled model, and losses of whole models at any ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from allocator.plan.effort import evaluated
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.profiling.divergence import DenseDistribution
from allocator.profiling.logits import batches
from allocator.stages.facts import facts_of, geometry_of
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.refine import PlanMeasurer
from allocator.stages.solving import layer_solution
from benchmarks.allocation import Case
from benchmarks.arena.problem import Signals
from benchmarks.arena.signals import signals
from benchmarks.profiled import Profile
from solvers.a3.feedback import compress_with_feedback
from solvers.checkpoints.writing import stored
from solvers.texts.text import read_text
from solvers.weights import LayerWeights

EFFORT = "standard"


@dataclass(frozen=True)
class Losses:
    """Losses of whole compressed models, window by window, nats/token."""

    kl: torch.Tensor
    """KL to the dense model on the measure windows."""
    rise: torch.Tensor
    """Negative log-likelihood less the dense model's on the evaluation windows."""


class Model:
    """The profiled model; ranks become whole models, and these are measured."""

    def __init__(self, profile: Profile, case: Case) -> None:
        self._context = profile.finished
        self._case, self.curves, self.profile = case, profile.curves, profile.document
        self._text = calibration_text(self._context)
        self._facts = facts_of(profile.finished.job)
        self._dtype = getattr(torch, self._facts["storage_dtype"])
        self.costs = CostModel(geometry_of(profile.finished.job))
        self.opened = open_source(self._context)
        self._solutions = [
            layer_solution(self._context, self.opened, layer) for layer in range(len(self.opened.source))
        ]
        self._cut: dict[tuple[int, ...], LayerWeights] = {}
        self._placed: dict[int, tuple[int, ...]] = {}
        self._delivered: dict[Ranks, Losses] = {}
        self._most_windows = profile.layers[0].effort.most_windows
        self._parts = list(batches(self._text.measure(self._most_windows), self.costs.geometry.vocab))
        self._dense_states = [self._run(part, lambda hidden: hidden) for part in self._parts]
        self._dense_nats = self._nats()

    @cached_property
    def signals(self) -> Signals:
        self._reset()
        return signals(self.opened, self._fit, self._solutions)

    @property
    def windows(self) -> int:
        """Windows that were run to measure the curves; of a cut that restarts in mid-model, the part that it runs through."""
        layers = len(self.opened.source)
        layer_windows = sum(
            (layers - curve.layer) * p.windows for curve in self.curves for p in curve.measured
        )
        return layer_windows // layers

    def measuring(self) -> PlanMeasurer:
        """The measuring that refinement uses."""
        return PlanMeasurer(self._context)

    def one_shot(self, ranks: Ranks, windows: int) -> float:
        """Mean KL on the first ``windows`` measure windows of one-shot cuts at these ranks."""
        for layer in range(len(self._solutions)):
            key = tuple(ranks.of(c)[layer] for c in COMPONENTS)
            if self._placed.get(layer) != key:  # most candidates differ from the one before in few layers
                self.opened.put(layer, stored(self._at(ranks, layer), self._dtype))
                self._placed[layer] = key
        return float(self._kl(windows).mean())

    def delivered(self, ranks: Ranks) -> Losses:
        """Losses of the model as a compress job writes it: ``a3+`` with error feedback, in the checkpoint's type."""
        if ranks not in self._delivered:
            self._reset()
            layers, _ = compress_with_feedback(
                self.opened,
                self._fit,
                lambda layer: self._at(ranks, layer),
                keep=lambda weights, record: stored(weights, self._dtype),
            )
            for index, layer in enumerate(layers):
                self.opened.put(index, layer)
            kl = self._kl(self._most_windows)
            self._delivered[ranks] = Losses(kl, self._nats() - self._dense_nats)
            self._reset()
        return self._delivered[ranks]

    @property
    def dense_nats(self) -> float:
        return float(self._dense_nats.mean())

    @cached_property
    def _fit(self) -> torch.Tensor:
        return self._text.fit(self._facts["calibration"]["fit_windows"])

    def _at(self, ranks: Ranks, layer: int) -> LayerWeights:
        key = (layer, *(ranks.of(c)[layer] for c in COMPONENTS))
        if key not in self._cut:
            self._cut[key] = self._solutions[layer].compressed(**{c: ranks.of(c)[layer] for c in COMPONENTS})
            while len(self._cut) > 64 * len(self._solutions):
                del self._cut[next(iter(self._cut))]
        return self._cut[key]

    def _reset(self) -> None:
        """The dense model again."""
        self._placed.clear()
        for index in range(len(self.opened.source)):
            self.opened.reset(index)

    def _kl(self, windows: int) -> torch.Tensor:
        values: list[torch.Tensor] = []
        with torch.no_grad():
            for part, states in zip(self._parts, self._dense_states, strict=True):
                remaining = windows - sum(map(len, values))
                if remaining <= 0:
                    break
                hidden, calls = self.opened.start(part[:remaining])
                reference = DenseDistribution(self.opened.head(states[:remaining]))
                values.append(reference.kl_per_window(self.opened.finish(hidden, calls, 0)))
        return torch.cat(values)

    @torch.no_grad()
    def _run(self, part: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        hidden, calls = self.opened.start(part)
        return head(self.opened.advance(hidden, calls, 0, len(self.opened.source)))

    @cached_property
    def _evaluation(self) -> tuple[torch.Tensor, int]:
        text = read_text(
            self._case.evaluation, self._case.folder, window=self._facts["window_tokens"], what="evaluation"
        )
        return evaluated(text.windows), max(len(text.prefix), 1)

    def _nats(self) -> torch.Tensor:
        """Mean negative log-likelihood of each evaluation window, (W,) in float64."""
        windows, first = self._evaluation
        values = []
        for part in batches(windows, self.costs.geometry.vocab):
            logits = self._run(part, self.opened.head)[:, first - 1 : -1]
            picked = logits.gather(-1, part[:, first:].unsqueeze(-1).to(logits.device)).squeeze(-1)
            values.append((torch.logsumexp(logits, dim=-1) - picked).double().mean(-1))
        return torch.cat(values)
