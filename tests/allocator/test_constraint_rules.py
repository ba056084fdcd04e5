"""Constraints one by one: what each form of writing leaves of the ranks, at its edges, and what is said where it cannot be."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.base.errors import InvalidInput
from allocator.plan.ask.constraints import Place, parse_constraints, target_of, together
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.targets.registry import PLAIN, TARGETS
from tests.support.profiles import SMALL

GEOMETRY = SMALL.replaced(layers=5, total_params=200_000)
"""Five layers, head_dim 16 (QK in twos), 128 neurons in twos."""
FULL: dict[Component, int] = {"qk": 16, "ov": 16, "mlp": 128}
CANDIDATES: dict[Component, list[int]] = {
    "qk": list(range(2, 17, 2)),
    "ov": list(range(1, 17)),
    "mlp": list(range(2, 129, 2)),
}
PLACES: list[Place] = [(layer, c) for layer in range(5) for c in COMPONENTS]


def left(constraints: dict[str, list[str]], layer: int, component: Component) -> list[int]:
    return list(parse_constraints(constraints, GEOMETRY).allowed[layer, component])


numbers = st.one_of(st.integers(1, 16).map(str), st.sampled_from(["0.1", "0.25", ".3", "0.99", "1.", "1.0"]))
components = st.sampled_from(COMPONENTS)
named = st.one_of(components.map(lambda c: f"{c}="), st.just(""))
layers = st.one_of(
    st.just("*"),
    st.integers(0, 4).map(str),
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda ends: f"{min(ends)}-{max(ends)}"),
)
wholes = st.lists(st.tuples(components, layers), max_size=3)


def written(text: str) -> list[int]:
    """The layers of a text that the strategy above made."""
    first, _, last = text.partition("-")
    return list(range(5)) if text == "*" else list(range(int(first), int(last or first) + 1))


def rank_of(number: str, component: Component) -> int:
    """A share of the full rank is rounded up."""
    return math.ceil(Fraction(number) * FULL[component]) if "." in number else int(number)


@given(
    st.lists(st.tuples(named, st.integers(1, 20)), max_size=2),
    st.lists(st.tuples(named, numbers), max_size=2),
    st.lists(st.tuples(layers, components, st.one_of(st.just("dense"), numbers)), max_size=2),
    wholes,
)
@settings(max_examples=200, deadline=None)
def test_what_is_left_is_what_every_constraint_allows(
    aligns: list[tuple[str, int]],
    leasts: list[tuple[str, str]],
    pins: list[tuple[str, Component, str]],
    ties: list[tuple[Component, str]],
) -> None:
    asked = {
        "align": [f"{name}{step}" for name, step in aligns],
        "min_rank": [f"{name}{number}" for name, number in leasts],
        "pin": [f"{text}.{c}={rank}" for text, c, rank in pins],
        "tie": [c if text == "*" else f"{c}:{text}" for c, text in ties if text == "*" or "-" in text],
    }
    expected = {place: set(CANDIDATES[place[1]]) for place in PLACES}
    for layer, c in PLACES:
        for name, step in aligns:
            if name in ("", f"{c}="):
                expected[layer, c] -= {rank for rank in CANDIDATES[c] if rank % step and rank != FULL[c]}
        for name, number in leasts:
            if name in ("", f"{c}="):
                expected[layer, c] -= {rank for rank in CANDIDATES[c] if rank < rank_of(number, c)}
    for text, c, number in pins:
        for layer in written(text):
            ranks = expected[layer, c]
            if number == "dense":
                expected[layer, c] = ranks & {FULL[c]}
            elif "." in number and ranks:
                at = rank_of(number, c)
                expected[layer, c] = {min(sorted(ranks), key=lambda rank: abs(rank - at))}
            else:
                expected[layer, c] = ranks & {rank_of(number, c)}
    tied = {place: {place} for place in PLACES}
    for c, text in ties:
        if text == "*" or "-" in text:
            joined = set().union(*(tied[layer, c] for layer in written(text)))
            for place in joined:
                tied[place] = joined
    for places in tied.values():
        common = set.intersection(*(expected[place] for place in places))
        for place in places:
            expected[place] = common
    if any(not ranks for ranks in expected.values()):
        with pytest.raises(InvalidInput):
            parse_constraints(asked, GEOMETRY)
        return
    limits = parse_constraints(asked, GEOMETRY)
    assert dict(limits.allowed) == {place: tuple(sorted(ranks)) for place, ranks in expected.items()}
    assert {frozenset(tie) for tie in limits.ties} == {
        frozenset(places) for places in tied.values() if len(places) > 1
    }
    assert limits.document == {kind: sorted(set(texts)) for kind, texts in asked.items() if texts}
    blocks = limits.blocks()
    assert sorted(place for block in blocks for place in block) == sorted(PLACES)
    assert [PLACES.index(block[0]) for block in blocks] == sorted(PLACES.index(block[0]) for block in blocks)
    assert {frozenset(block) for block in blocks} == {frozenset(places) for places in tied.values()}
    assert not any(together(block) for block in blocks)


@pytest.mark.parametrize(
    ("constraints", "component", "ranks"),
    [
        ({"align": ["65536"]}, "ov", [16]),
        ({"align": ["1"]}, "ov", CANDIDATES["ov"]),
        ({"align": ["8", "mlp=48"]}, "mlp", [48, 96, 128]),
        ({"min_rank": ["ov=0.3"]}, "ov", list(range(5, 17))),
        ({"min_rank": ["ov=0.25"]}, "ov", list(range(4, 17))),
        ({"min_rank": ["ov=16"]}, "ov", [16]),
        ({"min_rank": ["1"]}, "ov", CANDIDATES["ov"]),
        ({"min_rank": ["1.0"]}, "qk", [16]),
        ({"pin": ["*.mlp=0.5"]}, "mlp", [64]),
        ({"pin": ["0-4.mlp=1."]}, "mlp", [128]),
        # The nearest to 5 of 4, 8, 12, 16, and of two as near the smaller.
        ({"pin": ["*.ov=.3"], "align": ["ov=4"]}, "ov", [4]),
        ({"pin": ["*.ov=.35"], "align": ["ov=4"]}, "ov", [4]),
        ({"pin": ["*.ov=.4"], "align": ["ov=4"]}, "ov", [8]),
        ({"pin": ["*.ov=0.01"]}, "ov", [1]),
        # 4.4 is rounded up to 5 before 3 and 6 are compared.
        ({"pin": ["*.ov=.275"], "align": ["ov=3"]}, "ov", [6]),
    ],
)
def test_edges(constraints: dict[str, list[str]], component: Component, ranks: list[int]) -> None:
    for layer in (0, 4):
        assert left(constraints, layer, component) == ranks


def test_a_constraint_is_of_its_own_components_and_layers_alone() -> None:
    assert left({"align": ["mlp=32"]}, 0, "ov") == CANDIDATES["ov"]
    assert left({"min_rank": ["mlp=9"]}, 0, "ov") == CANDIDATES["ov"]
    allowed = parse_constraints({"pin": ["1-3.ov=7", "4.qk=4"]}, GEOMETRY).allowed
    pinned = {place: ranks for place, ranks in allowed.items() if len(ranks) == 1}
    assert pinned == {(1, "ov"): (7,), (2, "ov"): (7,), (3, "ov"): (7,), (4, "qk"): (4,)}


def test_ties_that_share_a_layer_are_one() -> None:
    limits = parse_constraints({"tie": ["ov:0-1", "ov:3-4", "ov:1-3", "mlp:2-2", "qk:3-4"]}, GEOMETRY)
    assert limits.ties == (tuple((layer, "ov") for layer in range(5)), ((3, "qk"), (4, "qk")))
    pairs = parse_constraints({"tie": ["mlp:3-4", "mlp:0-1", "ov:1-2"]}, GEOMETRY).ties
    assert pairs == (((0, "mlp"), (1, "mlp")), ((1, "ov"), (2, "ov")), ((3, "mlp"), (4, "mlp")))
    every = parse_constraints({"tie": ["mlp", "qk", "ov"]}, GEOMETRY).ties
    assert [tie[0] for tie in every] == [(0, "qk"), (0, "ov"), (0, "mlp")]
    # What only some of them may take is left to none.
    limits = parse_constraints({"tie": ["ov:0-2"], "pin": ["1.ov=7"]}, GEOMETRY)
    assert [limits.allowed[layer, "ov"] for layer in range(3)] == [(7,)] * 3
    assert limits.allowed[3, "ov"] == tuple(CANDIDATES["ov"])


def test_options_take_the_place_of_the_geometry_s_candidates() -> None:
    options = {(layer, c): (4, 8, 16) for layer in range(5) for c in COMPONENTS}
    limits = parse_constraints({"min_rank": ["ov=5"]}, GEOMETRY, options)
    assert limits.allowed[2, "ov"] == (8, 16)
    assert limits.allowed[2, "qk"] == (4, 8, 16)
    assert parse_constraints(None, GEOMETRY).allowed == {
        (layer, c): tuple(CANDIDATES[c]) for layer in range(5) for c in COMPONENTS
    }


def test_a_target_that_pairs_chooses_qk_and_ov_of_a_layer_together() -> None:
    limits = parse_constraints({"target": ["vllm"], "tie": ["mlp:1-2"]}, GEOMETRY)
    pairs = [block for block in limits.blocks() if together(block)]
    assert pairs == [((layer, "qk"), (layer, "ov")) for layer in range(5)]
    others = [block for block in limits.blocks() if not together(block)]
    assert others == [((0, "mlp"),), ((1, "mlp"), (2, "mlp")), ((3, "mlp"),), ((4, "mlp"),)]
    assert limits.target is TARGETS["vllm"]
    assert limits.document == {"target": ["vllm"], "tie": ["mlp:1-2"]}
    assert not together([(0, "mlp"), (1, "mlp")])
    assert not together([(0, "qk")])


def test_a_target_s_own_ties_join_those_that_were_asked_for() -> None:
    limits = parse_constraints({"target": ["stock"], "pin": ["2.mlp=64"]}, GEOMETRY)
    assert limits.ties == (tuple((layer, "mlp") for layer in range(5)),)
    assert [limits.allowed[layer, "mlp"] for layer in range(5)] == [(64,)] * 5
    assert [limits.allowed[layer, "qk"] for layer in range(5)] == [(16,)] * 5
    for family, ties in (("llama", ()), ("gemma", limits.ties)):
        named = parse_constraints({"target": ["llama.cpp"]}, GEOMETRY.replaced(family=family))
        assert named.ties == ties


def test_the_target_is_the_one_named_or_plain_transformers() -> None:
    for constraints in (None, {}, {"target": []}, {"target": ["transformers", "transformers"]}):
        assert target_of(constraints) is PLAIN
        assert parse_constraints(constraints, GEOMETRY).document == {}
    assert target_of({"target": ["vllm", "vllm"]}) is TARGETS["vllm"]
    with pytest.raises(InvalidInput) as caught:
        target_of({"target": ["vllm", "stock"]})
    (error,) = caught.value.fields
    assert (error.field, error.found) == ("target", "stock, vllm")
    assert error.allowed == f"one of {', '.join(TARGETS)}"


@pytest.mark.parametrize(
    ("constraints", "field", "found", "allowed"),
    [
        ({"wedge": [], "bend": []}, "constraints", "bend", "one of align, min_rank, pin, tie, target"),
        ({"pin": ["*.ov=2"] * 1001}, "constraints.pin", "1001 entries", "at most 1000"),
        ({"align": ["65537"]}, "align", "65537", "a whole number from 1, for instance 8 or mlp=32"),
        ({"align": ["mlp=4=4"]}, "align", "mlp=4=4", "a whole number from 1, for instance 8 or mlp=32"),
        ({"align": ["heads=8"]}, "align", "heads=8", "a component: qk, ov, mlp"),
        ({"min_rank": ["heads=8"]}, "min_rank", "heads=8", "a component: qk, ov, mlp"),
        ({"pin": ["0.heads=8"]}, "pin", "0.heads=8", "a component: qk, ov, mlp"),
        ({"tie": ["heads"]}, "tie", "heads", "a component: qk, ov, mlp"),
        (
            {"min_rank": ["ov=half"]},
            "min_rank",
            "ov=half",
            "a rank or a share of it, for instance ov=16 or mlp=0.25",
        ),
        ({"min_rank": ["ov=0"]}, "min_rank", "ov=0", "a rank from 1 to 16, or a share from 0.0 to 1.0 of it"),
        ({"min_rank": ["0.0"]}, "min_rank", "0.0", "a rank from 1 to 16, or a share from 0.0 to 1.0 of it"),
        (
            {"min_rank": ["mlp=129"]},
            "min_rank",
            "mlp=129",
            "a rank from 1 to 128, or a share from 0.0 to 1.0 of it",
        ),
        (
            {"min_rank": ["ov=1.1"]},
            "min_rank",
            "ov=1.1",
            "a rank from 1 to 16, or a share from 0.0 to 1.0 of it",
        ),
        (
            {"pin": ["0.ov=x"]},
            "pin",
            "0.ov=x",
            "a rank or a share of it, for instance 17.ov=96, 0-3.mlp=dense or *.qk=0.5",
        ),
        ({"pin": ["0.ov=17"]}, "pin", "0.ov=17", "a rank from 1 to 16, or a share from 0.0 to 1.0 of it"),
        (
            {"pin": ["ov=7"]},
            "pin",
            "ov=7",
            "LAYERS.COMPONENT=RANK, for instance 17.ov=96, 0-3.mlp=dense or *.qk=0.5",
        ),
        ({"pin": ["0-5.ov=7"]}, "pin", "0-5.ov=7", "layers from 0 to 4"),
        ({"pin": ["3-1.ov=7"]}, "pin", "3-1.ov=7", "layers from 0 to 4"),
        ({"tie": ["ov:4-5"]}, "tie", "ov:4-5", "layers from 0 to 4"),
        (
            {"tie": ["ov:x"]},
            "tie",
            "ov:x",
            "COMPONENT or COMPONENT:FIRST-LAST, for instance qk or mlp:0-3",
        ),
        (
            {"tie": ["ov:1-3"], "pin": ["3.ov=2", "1.ov=3"]},
            "tie",
            "ov of layers 1, 2, 3",
            "layers that have a rank in common under the other constraints",
        ),
        (
            {"pin": ["1.qk=3"]},
            "pin",
            "1.qk=3",
            "layer 1 qk may take 2, 4, ... 16 under the other constraints",
        ),
        (
            {"pin": ["1.qk=2"], "min_rank": ["qk=4"]},
            "pin",
            "1.qk=2",
            "layer 1 qk may take 4, 6, ... 16 under the other constraints",
        ),
        (
            {"pin": ["1.qk=2"], "min_rank": ["qk=5"]},
            "pin",
            "1.qk=2",
            "layer 1 qk may take 6, 8, 10, 12, 14, 16 under the other constraints",
        ),
        (
            {"target": ["vllm"], "tie": ["mlp", "ov:0-1"]},
            "tie",
            "ov",
            "mlp: target vllm chooses qk and ov of a layer together; pin them instead",
        ),
    ],
)
def test_a_refusal_says_what_was_found_and_what_is_allowed(
    constraints: dict[str, list[str]], field: str, found: str, allowed: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_constraints(constraints, GEOMETRY)
    (error,) = caught.value.fields
    assert (error.field, error.found, error.allowed) == (field, found, allowed)


def test_a_tie_of_one_layer_is_refused_where_the_target_pairs() -> None:
    with pytest.raises(InvalidInput, match="target vllm chooses qk and ov of a layer together"):
        parse_constraints({"target": ["vllm"], "tie": ["ov:1-1"]}, GEOMETRY)


def test_a_pin_beside_constraints_that_leave_nothing_says_so() -> None:
    options = {(layer, c): (4,) for layer in range(5) for c in COMPONENTS}
    with pytest.raises(InvalidInput, match="layer 2 ov may take no rank under the other constraints"):
        parse_constraints({"align": ["8"], "pin": ["2.ov=4"]}, GEOMETRY, options)


def test_a_thousand_constraints_of_a_kind_are_read() -> None:
    assert left({"pin": ["*.ov=2"] * 1000}, 0, "ov") == [2]


def test_a_model_that_a_target_refuses_is_named_with_the_reason() -> None:
    with pytest.raises(
        InvalidInput, match=r"^target: vllm cannot serve this model: its Transformers backend"
    ) as caught:
        parse_constraints({"target": ["vllm"]}, GEOMETRY.replaced(family="mpt"))
    (error,) = caught.value.fields
    assert (error.field, error.found) == ("target", "vllm")
