"""Constraints on ranks beyond budgets, as people write them; part of the program, never rounded afterwards.

align     8, or mlp=32           ranks are multiples of it, or the full rank
min_rank  ov=16, or mlp=0.25     no rank below; from 0 to 1 a share of the full rank
pin       17.ov=96, 0-3.mlp=dense, *.qk=0.5      a fixed rank in one layer, a range of them, or all
tie       qk, or mlp:0-3         the same rank in all these layers
target    vllm                   ranks that this engine can hold, and its cache in all costs (``plan.targets``)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.plan.targets.target import Target

KINDS = ("align", "min_rank", "pin", "tie", "target")
EXAMPLES = {
    "align": "8 or mlp=32",
    "min_rank": "ov=16 or mlp=0.25",
    "pin": "17.ov=96, 0-3.mlp=dense or *.qk=0.5",
    "tie": "qk or mlp:0-3",
    "target": "vllm",
}
_PIN = re.compile(r"(?P<layers>\*|\d{1,6}(?:-\d{1,6})?)\.(?P<component>\w+)=(?P<rank>[\w.]+)")
_NUMBER = re.compile(r"[0-9]{1,9}|[0-9]?\.[0-9]{1,40}|[0-9]\.")
"""Read by nothing more lenient: ``Fraction`` takes ``1e999999999`` and works on it until memory is gone."""
_TIE = re.compile(r"(?P<component>\w+)(?::(?P<layers>\d{1,6}-\d{1,6}))?")
_DENSE = "dense"
"""What a pin says for the full rank."""
_LIMIT = 1_000
"""Most constraints of a kind in one request."""

Place = tuple[int, Component]
"""(layer, component)."""


@dataclass(frozen=True)
class Constraints:
    """Parsed against a geometry. ``allowed`` holds, for every component of every layer, the ranks it may take, ascending."""

    allowed: Mapping[Place, tuple[int, ...]]
    ties: tuple[tuple[Place, ...], ...] = ()
    """Sets of at least two places with one rank; each place is in at most one."""
    document: dict[str, list[str]] = field(default_factory=dict)
    """As they were written, without repetitions, sorted; empty kinds left out."""
    target: Target = PLAIN

    def blocks(self) -> list[tuple[Place, ...]]:
        """All places, those that are chosen together in one, in the order of layers and components: tied ones have one rank,
        QK and OV of a layer (`together`) any pair that the target holds.
        """
        joined = {place: tie for tie in self.ties for place in tie}
        if self.target.paired:
            pairs: list[tuple[Place, Place]] = [
                ((layer, "qk"), (layer, "ov")) for layer, c in self.allowed if c == "qk"
            ]
            joined |= {place: pair for pair in pairs for place in pair}
        return list(dict.fromkeys(joined.get(place, (place,)) for place in self.allowed))


def together(block: Sequence[Place]) -> bool:
    """Whether a block is QK and OV of one layer, each with a rank of its own."""
    return len(block) > 1 and block[0][0] == block[1][0]


def target_of(constraints: Mapping[str, Sequence[str]] | None) -> Target:
    """The target that constraints name; plain transformers where they name none.

    Raises:
        InvalidInput: several, or an unknown one.
    """
    names = sorted(set((constraints or {}).get("target", ())))
    if not names:
        return PLAIN
    if len(names) > 1 or names[0] not in TARGETS:
        raise InvalidInput.of("target", ", ".join(names), f"one of {', '.join(TARGETS)}")
    return TARGETS[names[0]]


def parse_constraints(
    constraints: Mapping[str, Sequence[str]] | None,
    geometry: Geometry,
    options: Mapping[Place, Sequence[int]] | None = None,
) -> Constraints:
    """Read constraints and find what they leave of every component.

    Args:
        options: the ranks each component has without constraints, ascending; default: the geometry's candidates.

    Raises:
        InvalidInput: naming the constraint, what was found and what is allowed; also where constraints contradict each other.
    """
    constraints = constraints or {}
    unknown = sorted(constraints.keys() - set(KINDS))
    if unknown:
        raise InvalidInput.of("constraints", unknown[0], f"one of {', '.join(KINDS)}")
    for kind, texts in constraints.items():
        if len(texts) > _LIMIT:
            raise InvalidInput.of(f"constraints.{kind}", f"{len(texts)} entries", f"at most {_LIMIT}")
    options = options or {
        (layer, c): geometry.candidate_ranks(c) for layer in range(geometry.layers) for c in COMPONENTS
    }
    target = target_of(constraints)
    if (reason := target.refusal(geometry)) is not None:
        raise InvalidInput.of("target", target.name, reason, f"{target.name} cannot serve this model:")
    allowed: dict[Place, tuple[int, ...]] = {
        place: tuple(rank for rank in ranks if target.holds(geometry, place[1], rank))
        for place, ranks in options.items()
    }
    for kind, narrow in (("align", _align), ("min_rank", _at_least), ("pin", _pin)):
        for text in constraints.get(kind, ()):
            narrow(geometry, allowed, text)
    ties = [_tie(geometry, text) for text in (*constraints.get("tie", ()), *target.ties(geometry))]
    if target.paired and (tied := next((tie[0][1] for tie in ties if tie[0][1] != "mlp"), None)):
        raise InvalidInput.of(
            "tie", tied, f"mlp: target {target.name} chooses qk and ov of a layer together; pin them instead"
        )
    document = {kind: sorted(set(constraints[kind])) for kind in KINDS if constraints.get(kind)}
    if target is PLAIN:
        # A plan for it is the same plan without a word about it.
        document.pop("target", None)
    return Constraints(allowed, _joined(ties, allowed), document, target)


def _align(geometry: Geometry, allowed: dict[Place, tuple[int, ...]], text: str) -> None:
    component, value = _named(text, "align")
    if not value.isdecimal() or not 1 <= int(value) <= 65536:
        raise InvalidInput.of("align", text, f"a whole number from 1, for instance {EXAMPLES['align']}")
    step = int(value)
    for place, ranks in allowed.items():
        if component in (None, place[1]):
            full = geometry.full_rank(place[1])
            # The full rank always stays: it is the tensors as they are.
            allowed[place] = tuple(rank for rank in ranks if rank % step == 0 or rank == full)


def _at_least(geometry: Geometry, allowed: dict[Place, tuple[int, ...]], text: str) -> None:
    component, value = _named(text, "min_rank")
    for place, ranks in allowed.items():
        if component in (None, place[1]):
            least = _rank(geometry, place[1], value, "min_rank", text)
            allowed[place] = tuple(rank for rank in ranks if rank >= least)


def _pin(geometry: Geometry, allowed: dict[Place, tuple[int, ...]], text: str) -> None:
    match = _PIN.fullmatch(text)
    if match is None:
        raise InvalidInput.of("pin", text, f"LAYERS.COMPONENT=RANK, for instance {EXAMPLES['pin']}")
    component = _component(match["component"], "pin", text)
    for layer in _layers(geometry, match["layers"], "pin", text):
        place = layer, component
        full = geometry.full_rank(component)
        if match["rank"] == _DENSE:
            pinned = full
        else:
            exact = _rank(geometry, component, match["rank"], "pin", text)
            share = "." in match["rank"]
            # Of a share the nearest rank that there is; a number must be one.
            ranks = allowed[place]
            pinned = min(ranks, key=lambda rank: abs(rank - exact)) if share and ranks else exact
        if pinned not in allowed[place]:
            raise InvalidInput.of(
                "pin",
                text,
                f"layer {layer} {component} may take {_shown(allowed[place])} under the other constraints",
            )
        allowed[place] = (pinned,)


def _tie(geometry: Geometry, text: str) -> tuple[Place, ...]:
    match = _TIE.fullmatch(text)
    if match is None:
        raise InvalidInput.of(
            "tie", text, f"COMPONENT or COMPONENT:FIRST-LAST, for instance {EXAMPLES['tie']}"
        )
    component = _component(match["component"], "tie", text)
    return tuple((layer, component) for layer in _layers(geometry, match["layers"] or "*", "tie", text))


def _joined(
    ties: Sequence[tuple[Place, ...]], allowed: dict[Place, tuple[int, ...]]
) -> tuple[tuple[Place, ...], ...]:
    """Overlapping ties made one; what tied places may take in common becomes what each may take."""
    sets: list[set[Place]] = []
    for tie in ties:
        union = set(tie)
        for other in [overlapping for overlapping in sets if overlapping & union]:
            sets.remove(other)
            union |= other
        sets.append(union)
    for tied in sets:
        common = set.intersection(*(set(allowed[place]) for place in tied))
        if not common:
            first = min(tied)
            raise InvalidInput.of(
                "tie",
                f"{first[1]} of layers {', '.join(str(layer) for layer, _ in sorted(tied))}",
                "layers that have a rank in common under the other constraints",
            )
        for place in tied:
            allowed[place] = tuple(sorted(common))
    order = list(allowed)
    joined = (tuple(place for place in order if place in tied) for tied in sets if len(tied) > 1)
    return tuple(sorted(joined, key=lambda tie: order.index(tie[0])))


def _named(text: str, kind: str) -> tuple[Component | None, str]:
    """``component=value`` or a bare value, which is for all components."""
    name, equals, value = text.partition("=")
    return (_component(name, kind, text), value) if equals else (None, text)


def _component(name: str, kind: str, text: str) -> Component:
    for component in COMPONENTS:
        if name == component:
            return component
    raise InvalidInput.of(kind, text, f"a component: {', '.join(COMPONENTS)}")


def _layers(geometry: Geometry, text: str, kind: str, full_text: str) -> range:
    if text == "*":
        return range(geometry.layers)
    first, _, last = text.partition("-")
    layers = range(int(first), int(last or first) + 1)
    if not layers or layers[-1] >= geometry.layers:
        raise InvalidInput.of(kind, full_text, f"layers from 0 to {geometry.layers - 1}")
    return layers


def _rank(geometry: Geometry, component: Component, value: str, kind: str, text: str) -> int:
    """A rank, or a share of the full one rounded up."""
    full = geometry.full_rank(component)
    if _NUMBER.fullmatch(value) is None:
        raise InvalidInput.of(kind, text, f"a rank or a share of it, for instance {EXAMPLES[kind]}")
    number, share = Fraction(value), "." in value
    if (share and not 0 < number <= 1) or (not share and not 1 <= number <= full):
        raise InvalidInput.of(kind, text, f"a rank from 1 to {full}, or a share from 0.0 to 1.0 of it")
    return -(-number.numerator * full // number.denominator) if share else int(number)


def _shown(ranks: Sequence[int]) -> str:
    if not ranks:
        return "no rank"
    return ", ".join(map(str, ranks)) if len(ranks) <= 6 else f"{ranks[0]}, {ranks[1]}, ... {ranks[-1]}"
