"""Measured times of a model's components on one machine (``rankalloc.latency/1``): what latency budgets count. No torch.

A pass (a prefill of batch x context tokens, or one decoding step of the batch) takes a constant and, for every component of
every layer, what was measured at the next measured rank: a staircase. Kernels work in tiles, so a straight line between two
measured ranks would promise time that nothing gives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from allocator.base.digests import digest
from allocator.base.document import Document
from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry

LATENCY_SCHEMA = "rankalloc.latency/1"
MAX_TABLE_BYTES = 256 << 10
_NOT_SHAPE = ("total_params", "bytes_per_param", "vocab", "max_positions")
"""Fields of a geometry that a table's times do not hang on, or that the table says itself."""
_MOST_NS = 10**15

PREFILL, DECODE = PHASES = ("prefill", "decode")
"""Kinds of passes."""

Nanoseconds = Annotated[int, Field(ge=0, le=_MOST_NS)]
_Words = Annotated[str, Field(max_length=200)]
Workload = tuple[int, int, str]
"""Kind of pass: (batch, context, phase)."""


class Step(Document):
    """One measured rank: nanoseconds above the smallest measured rank, per layer, and the quartile distance of them."""

    rank: Annotated[int, Field(ge=1, le=1 << 24)]
    ns: Nanoseconds
    spread_ns: Nanoseconds


class Parts(Document):
    """The steps of each component, ascending."""

    qk: Annotated[list[Step], Field(min_length=1, max_length=256)]
    ov: Annotated[list[Step], Field(min_length=1, max_length=256)]
    mlp: Annotated[list[Step], Field(min_length=1, max_length=256)]

    def of(self, component: Component) -> list[Step]:
        return {"qk": self.qk, "ov": self.ov, "mlp": self.mlp}[component]


class Check(Document):
    """A model of the layers that were built, timed although the steps do not need it: what they say of it."""

    share: Annotated[float, Field(ge=0, le=1)]
    measured_ns: Nanoseconds
    spread_ns: Nanoseconds
    predicted_ns: Nanoseconds


class Timing(Document):
    """One batch, context and phase; ``constant_ns`` is a pass with every component at its smallest measured rank."""

    batch: Annotated[int, Field(ge=1, le=10**6)]
    context: Annotated[int, Field(ge=1, le=10**9)]
    phase: Literal["prefill", "decode"]
    dense_ns: Annotated[int, Field(ge=1, le=_MOST_NS)]
    dense_spread_ns: Nanoseconds
    constant_ns: Nanoseconds
    parts: Parts
    checks: Annotated[list[Check], Field(max_length=32)]

    @property
    def workload(self) -> Workload:
        return self.batch, self.context, self.phase

    def step_ns(self, component: Component, rank: int) -> int:
        """Nanoseconds of one layer's component at a rank: those of the next measured one."""
        steps = self.parts.of(component)
        spot = bisect_left(steps, rank, key=lambda step: step.rank)
        return steps[min(spot, len(steps) - 1)].ns


class Machine(Document):
    """Where it was measured."""

    device: Literal["cpu", "cuda"]
    name: _Words
    threads: Annotated[int, Field(ge=1, le=10**5)]
    torch: _Words
    transformers: _Words


class LatencyTable(Document):
    """A table, named by its content: the file, the stored JSON and the answer over REST. A plan's has only the timings that it
    uses, under the digest of the whole.
    """

    schema_: Annotated[Literal["rankalloc.latency/1"], Field(alias="schema")]
    geometry: Geometry
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: _Words
    layers_measured: Annotated[int, Field(ge=1, le=10**4)]
    rounds: Annotated[int, Field(ge=1, le=10**6)]
    machine: Machine
    timings: Annotated[list[Timing], Field(min_length=1, max_length=64)]
    digest: Annotated[str, Field(max_length=64)]

    @classmethod
    def _field(cls, place: tuple[int | str, ...]) -> str:
        return ".".join(map(str, place))

    def timing(self, batch: int, context: int, phase: str) -> Timing:
        """The row of this batch, context and phase.

        Raises:
            InvalidInput: nothing was measured there.
        """
        workload = (batch, context, phase)
        for timing in self.timings:
            if timing.workload == workload:
                return timing
        named = "batch={},context={},phase={}"
        missing, measured = named.format(*workload), [named.format(*t.workload) for t in self.timings]
        said = f"the table was not measured at {missing}; it has"
        raise InvalidInput.of("latency", missing, "; ".join(measured), said)

    def check_fits(self, geometry: Geometry) -> None:
        """Raises InvalidInput where the table is of a model of another shape."""
        mine, theirs = self.geometry.model_dump(), geometry.model_dump()
        for name in theirs:
            if name not in _NOT_SHAPE and mine.get(name) != theirs[name]:
                at = f"latency table {self.digest[:12]} is of another shape of model"
                said = f"{name} is {mine.get(name)} there and"
                allowed = f"{theirs[name]} here; measure this one with rankalloc latency"
                raise InvalidInput.of(f"geometry.{name}", mine.get(name), allowed, said, at=at)

    def only(self, workloads: Sequence[Workload]) -> LatencyTable:
        """The table with these timings alone, still under the whole table's digest: what a plan keeps."""
        return self.model_copy(
            update={"timings": [timing for timing in self.timings if timing.workload in workloads]}
        )


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its digest."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return {**content, "digest": digest(content)}


def read_table(document: Any) -> LatencyTable:
    """Check a table that anybody may have written.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    unnamed = LatencyTable.read({**document, "digest": ""}, "latency table")
    check_steps(unnamed)
    own_digest = str(sealed(document)["digest"])
    if document.get("digest", own_digest) != own_digest:
        raise _refused("digest", str(document["digest"])[:64], f"the hash of the rest, {own_digest}")
    return unnamed.model_copy(update={"digest": own_digest})


def check_steps(table: LatencyTable) -> None:
    """Raises InvalidInput where a batch, context and phase come twice, or its steps are not in order up to the full rank."""
    geometry = table.geometry
    workloads = [timing.workload for timing in table.timings]
    if len(set(workloads)) < len(workloads):
        raise _refused("timings", "a place twice", "each batch, context and phase once")
    for timing in table.timings:
        for component in COMPONENTS:
            steps, where = timing.parts.of(component), f"timings.parts.{component}"
            if any(a.rank >= b.rank or a.ns > b.ns for a, b in pairwise(steps)):
                raise _refused(where, "steps that fall", "ranks that ascend and times that do not fall")
            full = geometry.full_rank(component)
            if steps[-1].rank != full:
                raise _refused(where, f"rank {steps[-1].rank} last", f"the full rank, {full}, last")


def _refused(field: str, found: str, allowed: str) -> InvalidInput:
    return InvalidInput.of(field, found, allowed, f"found {found}; allowed is", at=f"latency table: {field}")
