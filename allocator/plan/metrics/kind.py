"""The kind of a metric: one object that costs, budgets, prices, tables, forms and docs are made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from allocator.plan.metrics.counts import Counts
from allocator.plan.model.dtypes import CACHES, WEIGHTS
from allocator.plan.model.geometry import Component
from allocator.plan.model.latency import PHASES, PREFILL
from allocator.plan.model.precision import Form

PARAMETERS, BYTES, FLOPS, NANOSECONDS = "parameters", "bytes", "FLOPs", "ns"
"""Units of metrics."""

WORDS: dict[str, Collection[str]] = {"phase": PHASES, "weights": WEIGHTS, "cache": CACHES}
"""Options whose value is one of some words; all others are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a metric beside its name; each kind reads those that it names.

    ``weights`` and ``cache`` are types (``plan.model.dtypes``); None is the checkpoint's own.
    """

    batch: int = 1
    context: int = 2048
    phase: str = PREFILL
    weights: str | None = None
    cache: str | None = None


class Kind(ABC):
    """A metric: a constant plus a sum over components, in exact integers of its unit.

    A new one is a file beside this one and a line in the package's registry.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """`PARAMETERS`, `BYTES`, `FLOPS` or `NANOSECONDS`."""
    title: ClassVar[str]
    """On pages and in tables."""
    short: ClassVar[str]
    """In the head of a narrow table."""
    help: ClassVar[str]
    """One sentence for references."""
    priced: ClassVar[str]
    """What follows an amount in a shadow price: "0.004 nats per 100 MB **of memory**"."""
    example: ClassVar[str]
    """A budget on it."""
    options: ClassVar[tuple[str, ...]] = ()
    """Fields of `Options` that it reads."""
    needed: ClassVar[tuple[str, ...]] = ()
    """Those without a default."""
    counts_bits: ClassVar[bool] = False
    """Whether it depends on the bits of single components."""
    timed: ClassVar[bool] = False
    """Whether it is read from a latency table."""
    summarized: ClassVar[bool] = False
    """Whether every plan and report shows it."""

    @abstractmethod
    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        """The cost of the layer's component at a rank; ``form``: bits that its weights are held in, or its latent; None:
        neither, and bits as the options say.
        """

    def shared(self, counts: Counts, options: Options, layer: int, qk: int, ov: int) -> int:
        """The cost of the layer's QK and OV together at these ranks, beyond what each costs by itself."""
        return 0

    def constant(self, counts: Counts, options: Options) -> int:
        """The part that no rank can change."""
        return 0

    def measured_dense(self, counts: Counts, options: Options) -> int | None:
        """The dense model's amount where it is not the sum of its parts; None: it is."""
        return None
