"""The measurements that a layer's profile still lacks: the same answer for everybody who asks. No torch.

A loss is measured on blocks of windows, first on as many as the effort starts with, then block by block while its
standard error is large against it. The decision depends on stored numbers alone: an interrupted job goes on as if it never
had been.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from allocator.base.statistics import mean_and_stderr
from allocator.plan.documents.curve import Point, Prediction
from allocator.plan.effort import LEAST_STDERR_NATS, Effort, component_ranks, latent_ranks
from allocator.plan.identity import Identity
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import LATENTS, Latent

PLAN = "plan"
"""The place of a component where the whole plan is meant around which curves are measured, at ``PLAN_RANK``."""
PLAN_RANK = 0

Part = Component | Latent
"""A component, or one of a latent: what gradients predict losses of."""

Cut = tuple[str, int] | tuple[str, int, int]
"""(component, rank) of one cut, (component, rank, bits) of a quantized one; in a profile around a plan, (component, full rank)
is what its losses are counted from.
"""


def cut_of(component: str, rank: int, bits: int | None = None) -> Cut:
    """The cut to this rank, quantized where there are bits."""
    return (component, rank) if bits is None else (component, rank, bits)


def cut_bits(cut: Cut) -> int | None:
    """The bits of a quantized cut."""
    return cut[2] if len(cut) == 3 else None


@dataclass(frozen=True)
class LayerNeeds:
    """The measurements that an effort needs of one layer.

    ``windows`` is how many the text has to measure on; with ``fully_measured`` its cuts are measured on all windows that the
    effort measures any layer on.
    """

    identity: Identity
    geometry: Geometry
    index: int
    windows: int
    fully_measured: bool = False

    @property
    def effort(self) -> Effort:
        return self.identity.effort

    @property
    def cuts(self) -> list[Cut]:
        """Every cut that is measured, in a fixed order."""
        cuts: list[Cut] = []
        cuts += [(c, rank) for c in (*COMPONENTS, *self.latents) for rank in self.ranks(c)]
        if self.identity.around is not None:
            cuts += [(c, self.geometry.full_rank(c)) for c in COMPONENTS if c not in self.geometry.fixed]
            if self.index == 0:
                cuts.append((PLAN, PLAN_RANK))
        for bits in self.identity.bits:
            cuts += [
                (c, rank, bits)
                for c in COMPONENTS
                for rank in component_ranks(self.geometry, self.effort, c, bits)
            ]
        return cuts

    @property
    def is_measured(self) -> bool:
        """Whether cuts of this layer are measured end to end, besides the smallest."""
        return self.fully_measured or self.index in self.effort.measured_layers(self.geometry.layers)

    @property
    def latents(self) -> list[Latent]:
        """The latents that the solution has."""
        return [form for form in LATENTS if self.identity.document["solution"].get(form)]

    def ranks(self, component: Part) -> list[int]:
        """The ranks of a component, or of one of a latent, that are measured end to end in the checkpoint's own type."""
        if component in LATENTS:
            ranks = latent_ranks(self.geometry, self.effort, cast(Latent, component))
        else:
            ranks = component_ranks(self.geometry, self.effort, cast(Component, component))
        return ranks if self.is_measured else ranks[:1] if self.effort.ends else []

    @property
    def _part(self) -> int | None:
        """The windows of the first block that its cuts are measured on; None where that is whole blocks."""
        if self.fully_measured:
            return None
        windows = self.effort.factor_windows if self.is_measured else self.effort.ends
        return min(windows, self.windows) or None

    def block_size(self, block: int) -> int:
        """The number of a block's windows that its cuts are measured on."""
        size = self.identity.block_windows
        return self._part or min(size, self.windows - block * size)

    @property
    def gradient_blocks(self) -> list[int]:
        """The blocks of windows on which its losses are predicted from gradients."""
        return list(range(self._blocks(self.gradient_windows)))

    @property
    def gradient_windows(self) -> int:
        """The number of windows in these blocks."""
        return min(self.effort.gradient_windows, self.windows)

    def gradient_key(self, block: int) -> str:
        return self.identity.gradient_key(self.index, block)

    def unpredicted(self, units: Mapping[str, dict]) -> list[int]:
        """Blocks of windows on which gradients have yet to predict its losses."""
        return [block for block in self.gradient_blocks if self.gradient_key(block) not in units]

    def predictions(self, units: Mapping[str, dict], component: Part) -> list[Prediction]:
        """Losses of the component, or of one of a latent, that gradients predict: on all blocks, and on those that cuts are
        measured on.
        """
        if component in self.geometry.fixed:
            return []
        own_units = [
            units[self.gradient_key(block)]["components"][component] for block in self.gradient_blocks
        ]
        predictions: list[Prediction] = []
        for spot, rank in enumerate(own_units[0]["ranks"]):
            values = [value for unit in own_units for value in unit["kl_nats"][spot]]
            first_values = [
                value
                for unit in own_units[: self.first_blocks]
                for value in unit["kl_nats"][spot][: self._part]
            ]
            mean, stderr = mean_and_stderr(values)
            first_mean = statistics.fmean(first_values)
            predictions.append(
                Prediction(rank=rank, loss_nats=mean, stderr_nats=stderr, same_windows_nats=first_mean)
            )
        return predictions

    @property
    def first_blocks(self) -> int:
        return 1 if self._part else self._blocks(min(self.effort.first_windows, self.windows))

    @property
    def most_blocks(self) -> int:
        return 1 if self._part else self._blocks(min(self.effort.most_windows, self.windows))

    def _blocks(self, windows: int) -> int:
        return -(-windows // self.identity.block_windows)

    def key(self, cut: Cut, block: int) -> str:
        return self.identity.loss_key(self.index, cut[0], cut[1], block, cut_bits(cut), self._part)

    def keys(self) -> list[str]:
        """All unit keys that this layer may have under the effort."""
        cuts = self.cuts
        return [
            self.identity.analytic_key(self.index),
            *(self.gradient_key(block) for block in self.gradient_blocks),
            *(self.key(cut, block) for cut in cuts for block in range(self.most_blocks)),
        ]

    def values(self, units: Mapping[str, dict], cut: Cut) -> list[float]:
        """KL of every window measured so far, nats/token, in the order of windows; block after block without a gap."""
        values: list[float] = []
        for block in range(self.most_blocks):
            unit = units.get(self.key(cut, block))
            if unit is None:
                break
            values += unit["kl_nats"]
        return values

    def losses(self, units: Mapping[str, dict], cut: Cut) -> list[float]:
        """``values``, around a plan minus those of the component at full rank among the same layers."""
        values = self.values(units, cut)
        component = cut[0]
        if self.identity.around is None or component == PLAN:
            return values
        references = self.values(units, (component, self.geometry.full_rank(component)))  # type: ignore[arg-type]
        return [value - full for value, full in zip(values, references, strict=False)]

    def missing(self, units: Mapping[str, dict]) -> dict[int, list[Cut]]:
        """Block -> the cuts to measure on it next; empty when the layer is complete (but for its analytic curves).

        Called again with the new units until it is empty.
        """
        missing: dict[int, list[Cut]] = {}
        for cut in self.cuts:
            blocks = self._needed_blocks(units, cut)
            for block in range(blocks):
                if self.key(cut, block) not in units:
                    missing.setdefault(block, []).append(cut)
        return dict(sorted(missing.items()))

    def _needed_blocks(self, units: Mapping[str, dict], cut: Cut) -> int:
        """The number of blocks to measure a cut on: the first ones, or one more than are stored where those were not enough."""
        component, rank = cut[:2]
        if component == PLAN:
            return self.most_blocks
        # What others are compared with; quantized at its full rank a component is a cut like any other.
        if cut_bits(cut) is None and rank == self.geometry.full_rank(component):  # type: ignore[arg-type]
            return self.most_blocks
        for blocks in range(self.first_blocks, self.most_blocks):
            windows = blocks * self.identity.block_windows
            losses = self.losses(units, cut)[:windows]
            if len(losses) < windows or precise(losses, self.effort.stderr_share):
                return blocks
        return self.most_blocks

    def measurements(
        self, units: Mapping[str, dict], component: Part, bits: int | None = None
    ) -> list[Point]:
        """The measured points of a component's curve, or of that in fewer bits, on the windows that this effort asks for."""
        points: list[Point] = []
        ranks = (
            self.ranks(component)
            if bits is None
            else component_ranks(self.geometry, self.effort, cast(Component, component), bits)
        )
        for rank in ranks:
            cut = cut_of(component, rank, bits)
            blocks = self._needed_blocks(units, cut)
            values = self.losses(units, cut)[: blocks * self.identity.block_windows]
            mean, stderr = mean_and_stderr(values)
            points.append(Point(rank=rank, loss_nats=mean, stderr_nats=stderr, windows=len(values)))
        return points


def precise(values: Sequence[float], share: float) -> bool:
    """Whether the standard error is at most this share of the mean, or too small to matter."""
    mean, stderr = mean_and_stderr(values)
    return stderr <= max(share * abs(mean), LEAST_STDERR_NATS)
