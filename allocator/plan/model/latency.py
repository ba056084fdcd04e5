"""Measured times of a model's components on one machine (``rankalloc.latency/1``): what latency budgets count. No torch.

A pass (a prefill of batch x context tokens, or one decoding step of the batch) takes a constant and, for every component of
every layer, what was measured at the next measured rank: a staircase. Kernels work in tiles, so a straight line between two
measured ranks would promise time that nothing gives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from allocator.base.digests import digest
from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.files.profile_file import GeometryIn
from allocator.plan.model.geometry import Component, Geometry

LATENCY_SCHEMA = "rankalloc.latency/1"
MAX_TABLE_BYTES = 256 << 10
_NOT_SHAPE = ("total_params", "bytes_per_param", "vocab", "max_positions")
"""Fields of a geometry that a table's times do not hang on, or that the table says itself."""
_MOST_NS = 10**15
_FIELDS = 10

Nanoseconds = Annotated[int, Field(ge=0, le=_MOST_NS)]
Text = Annotated[str, Field(max_length=200)]
Place = tuple[int, int, str]
"""(batch, context, phase)."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StepIn(_In):
    """One measured rank: nanoseconds above the smallest measured rank, per layer, and the quartile distance of them."""

    rank: Annotated[int, Field(ge=1, le=1 << 24)]
    ns: Nanoseconds
    spread_ns: Nanoseconds


class PartsIn(_In):
    """The steps of each component, ascending."""

    qk: Annotated[list[StepIn], Field(min_length=1, max_length=256)]
    ov: Annotated[list[StepIn], Field(min_length=1, max_length=256)]
    mlp: Annotated[list[StepIn], Field(min_length=1, max_length=256)]


class CheckIn(_In):
    """A model of the layers that were built, timed although the steps do not need it: what they say of it."""

    share: Annotated[float, Field(ge=0, le=1)]
    measured_ns: Nanoseconds
    spread_ns: Nanoseconds
    predicted_ns: Nanoseconds


class TimingIn(_In):
    """One batch, context and phase; ``constant_ns`` is a pass with every component at its smallest measured rank."""

    batch: Annotated[int, Field(ge=1, le=10**6)]
    context: Annotated[int, Field(ge=1, le=10**9)]
    phase: Literal["prefill", "decode"]
    dense_ns: Annotated[int, Field(ge=1, le=_MOST_NS)]
    dense_spread_ns: Nanoseconds
    constant_ns: Nanoseconds
    parts: PartsIn
    checks: Annotated[list[CheckIn], Field(max_length=32)]


class MachineIn(_In):
    """Where it was measured."""

    device: Literal["cpu", "cuda"]
    name: Text
    threads: Annotated[int, Field(ge=1, le=10**5)]
    torch: Text
    transformers: Text


class TableIn(_In):
    """A whole table but for its digest."""

    schema_: Annotated[Literal["rankalloc.latency/1"], Field(alias="schema")]
    geometry: GeometryIn
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Text
    layers_measured: Annotated[int, Field(ge=1, le=10**4)]
    rounds: Annotated[int, Field(ge=1, le=10**6)]
    machine: MachineIn
    timings: Annotated[list[TimingIn], Field(min_length=1, max_length=64)]


@dataclass(frozen=True)
class LatencyTable:
    """A checked table, named by its content. ``document`` carries ``digest``; a plan's has only the timings it uses."""

    document: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.document["digest"])

    def timing(self, batch: int, context: int, phase: str) -> dict[str, Any]:
        """What was measured there.

        Raises:
            InvalidInput: nothing was.
        """
        wanted = (batch, context, phase)
        for found in self.document["timings"]:
            if place_of(found) == wanted:
                return dict(found)
        allowed = "; ".join(
            "batch={},context={},phase={}".format(*place_of(each)) for each in self.document["timings"]
        )
        text = "batch={},context={},phase={}".format(*wanted)
        said = f"the table was not measured at {text}; it has"
        raise InvalidInput.of("latency", text, allowed, said)

    def check_fits(self, geometry: Geometry) -> None:
        """Raises InvalidInput where the table is of a model of another shape."""
        mine, theirs = self.document["geometry"], geometry.document()
        for name in theirs:
            if name not in _NOT_SHAPE and mine.get(name) != theirs[name]:
                at = f"latency table {self.digest[:12]} is of another shape of model"
                said = f"{name} is {mine.get(name)} there and"
                allowed = f"{theirs[name]} here; measure this one with rankalloc latency"
                raise InvalidInput.of(f"geometry.{name}", mine.get(name), allowed, said, at=at)

    def only(self, places: Sequence[Place]) -> dict[str, Any]:
        """The document with these timings alone, still under its whole table's digest: what a plan keeps."""
        kept = [each for each in self.document["timings"] if place_of(each) in places]
        return {**self.document, "timings": kept}


def place_of(timing: Mapping[str, Any]) -> Place:
    return timing["batch"], timing["context"], timing["phase"]


def step_ns(timing: Mapping[str, Any], component: Component, rank: int) -> int:
    """Nanoseconds of one layer's component at a rank: those of the next measured one."""
    steps = timing["parts"][component]
    spot = bisect_left(steps, rank, key=lambda step: step["rank"])
    return int(steps[min(spot, len(steps) - 1)]["ns"])


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its digest."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return {**content, "digest": digest(content)}


def read_table(document: Any) -> LatencyTable:
    """Check a table that anybody may have written.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    found = sealed(_checked(document))
    if document.get("digest", found["digest"]) != found["digest"]:
        raise _refused("digest", str(document["digest"])[:64], f"the hash of the rest, {found['digest']}")
    return LatencyTable(found)


def _checked(document: Mapping[str, Any]) -> dict[str, Any]:
    """All but the digest, each field of its type and the steps in order. Raises InvalidInput."""
    content = {name: value for name, value in document.items() if name != "digest"}
    try:
        TableIn.model_validate(content)
    except ValidationError as error:
        fields = [
            FieldError(".".join(map(str, found["loc"])), repr(found["input"])[:100], found["msg"])
            for found in error.errors(include_url=False, include_context=False)[:_FIELDS]
        ]
        raise InvalidInput(
            f"latency table: {fields[0].field}: found {fields[0].found}; {fields[0].allowed}", fields=fields
        ) from None
    geometry = Geometry.from_document(content["geometry"])
    places = [place_of(timing) for timing in content["timings"]]
    if len(set(places)) < len(places):
        raise _refused("timings", "a place twice", "each batch, context and phase once")
    for timing in content["timings"]:
        for component, steps in timing["parts"].items():
            where = f"timings.parts.{component}"
            if any(a["rank"] >= b["rank"] or a["ns"] > b["ns"] for a, b in pairwise(steps)):
                raise _refused(where, "steps that fall", "ranks that ascend and times that do not fall")
            full = geometry.full_rank(component)
            if steps[-1]["rank"] != full:
                raise _refused(where, f"rank {steps[-1]['rank']} last", f"the full rank, {full}, last")
    return content


def check_part(document: Any) -> None:
    """Check the table in a plan that anybody may have written: some timings under their whole table's digest.

    Raises:
        InvalidInput: naming the field, what was found and what is allowed.
    """
    if not isinstance(document, dict) or not isinstance(document.get("digest"), str):
        raise _refused("digest", "none", "the digest of the table that the timings come from")
    _checked(document)


def table_of(plan: Mapping[str, Any]) -> LatencyTable | None:
    """The timings that a plan was made with; None where it has no latency budget."""
    kept = plan.get("latency_table")
    return None if kept is None else LatencyTable(dict(kept))


def _refused(field: str, found: str, allowed: str) -> InvalidInput:
    return InvalidInput.of(field, found, allowed, f"found {found}; allowed is", at=f"latency table: {field}")
