"""The course of a refinement, step by step, worked out by hand.

Two layers whose QK and OV start at rank 2 of 4, their MLPs pinned; a unit of rank costs the same everywhere, and ``room`` units
are free. So a step is a choice of ups and of no more downs (and ``room``) among four components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from allocator.plan.ask.budgets import parse_budgets
from allocator.plan.ask.constraints import Place
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.problem import Question, question
from allocator.plan.refinement import Record, refine
from tests.support.profiles import small_costs, small_profile
from tests.support.tiny import tiny_profile

PLACES: list[Place] = [(0, "qk"), (0, "ov"), (1, "qk"), (1, "ov")]
SHAPE = (0.6, 0.3, 0.1, 0.0)
"""Of every curve, by rank: a unit less than 2 costs 0.3, one more saves 0.2."""
START = Ranks((2, 2), (2, 2), (4, 4))

Moves = tuple[int, int, int, int]
"""Ranks less 2, by place."""


def asked(sizes: Sequence[float] = (1, 1, 1, 1), room: int = 0, tie: Sequence[str] = ()) -> Question:
    """Curves of these sizes at the places."""
    qk0, ov0, qk1, ov1 = (tuple(size * loss for loss in SHAPE) for size in sizes)
    profile = tiny_profile([qk0, ov0, SHAPE, qk1, ov1, SHAPE])
    budgets = parse_budgets([f"block_params={6 * (2 * 4 + 4 * 2 + room)}"])
    return question(profile, budgets, {"pin": ["*.mlp=dense"], "tie": list(tie)})


def moves_of(ranks: Ranks) -> Moves:
    a, b, c, d = (ranks.of(component)[layer] - 2 for layer, component in PLACES)
    return a, b, c, d


@dataclass
class Told:
    """Measures ``start`` nats, what each component's move changes of that, and of some moves together the loss itself."""

    singles: Sequence[Mapping[int, float]]
    """By place: move -> change; a move of two changes what one does."""
    together: Mapping[Moves, float] = field(default_factory=dict)
    start: float = 2.0
    second: Mapping[tuple[Place, int], float] = field(default_factory=dict)
    """Changes of the second round, by place and rank."""
    trials: list[dict[Place, list[int]]] = field(default_factory=list)

    def plan(self, ranks: Ranks) -> float:
        moves = moves_of(ranks)
        if moves in self.together:
            return self.together[moves]
        return math.fsum([self.start, *(self._single(*at) for at in zip(PLACES, moves, strict=True))])

    def changes(self, ranks: Ranks, trials: Mapping[Place, Sequence[int]]) -> dict[tuple[Place, int], float]:
        self.trials.append({place: list(at) for place, at in trials.items()})
        if len(self.trials) == 2 and self.second:
            return dict(self.second)
        now = dict(zip(PLACES, moves_of(ranks), strict=True))
        return {
            (place, rank): self._single(place, rank - 2) - self._single(place, now[place])
            for place, at in trials.items()
            for rank in at
        }

    def _single(self, place: Place, move: int) -> float:
        return self.singles[PLACES.index(place)][max(-1, min(move, 1))] if move else 0.0


def scaled(sizes: Sequence[float], factors: Sequence[float]) -> list[dict[int, float]]:
    """Each component moves the loss by a factor of its own times what its curve says."""
    return [
        {rank - 2: factor * size * (SHAPE[rank - 1] - SHAPE[1]) for rank in (1, 2, 3, 4)}
        for size, factor in zip(sizes, factors, strict=True)
    ]


SWAPS: list[tuple[float, Moves]] = [
    (0.35, (-1, 0, 0, 1)),
    (0.25, (0, -1, 0, 1)),
    (0.15, (-1, 0, 1, 0)),
    (0.05, (0, -1, 1, 0)),
    (0.04, (-1, 1, 0, 0)),
    (0.03, (0, 0, -1, 1)),
]
"""By promise, of the changes below."""
SINGLES = [{-1: 0.2, 1: -0.1}, {-1: 0.3, 1: -0.24}, {-1: 0.52, 1: -0.35}, {-1: 0.6, 1: -0.55}]
BOTH: Moves = (-1, -1, 1, 1)
"""The best of the region: it promises 0.2 + 0.3 - 0.35 - 0.55."""


@pytest.mark.parametrize("better", [0, 1, 3, 4, None])
def test_after_the_region_swaps_are_tried_until_one_is_better_or_four_are_not(better: int | None) -> None:
    together = {BOTH: 2.3, **{moves: 2.1 for _, moves in SWAPS}}
    if better is not None:
        together[SWAPS[better][1]] = 1.9
    measure, spent = Told(SINGLES, together), []
    ranks, record = refine(
        asked(), START, measure, evaluations=40, on_step=lambda record: spent.append(record.evaluations)
    )
    assert measure.trials == [{place: [1, 3] for place in PLACES}]
    # The start; of layer 0 the streams and four runs of the model; of layer 1 the streams and four halves.
    tried = 4 if better is None else min(better + 1, 4)
    assert spent == pytest.approx([1, 9, 10, *(11 + n for n in range(tried))])
    assert record.evaluations == spent[-1]
    taken = better is not None and better < 4
    region = {"kind": "region", "promised_nats": 0.4, "from_nats": 2.0, "to_nats": 2.3, "taken": False}
    swaps = [
        {
            "kind": "swap",
            "promised_nats": promise,
            "from_nats": 2.0,
            "to_nats": together[moves],
            "taken": taken and number == better,
        }
        for number, (promise, moves) in enumerate(SWAPS[:tried])
    ]
    assert record.steps == [pytest.approx(step) for step in (region, *swaps)]
    assert record.stopped == "no better plan in reach"
    assert moves_of(ranks) == (SWAPS[better][1] if taken and better is not None else (0, 0, 0, 0))
    assert (record.predicted_nats, record.start_nats) == pytest.approx((1.2, 2.0))
    assert record.final_nats == (1.9 if taken else 2.0)
    assert record.document()["additivity_error"] == pytest.approx(0.4)


def test_swaps_end_with_the_evaluations_and_promise_something() -> None:
    together = {BOTH: 2.3, **{moves: 2.1 for _, moves in SWAPS}}
    # 12 x 3/4 are for the region: 8 with three components, one for its plan. OV 1 goes by 1.1, the median of the factors.
    _, record = refine(asked(), START, Told(SINGLES, start=2.0, together=together), evaluations=12)
    promised = [(step["kind"], round(step["promised_nats"], 9)) for step in record.steps[1:]]
    assert promised == [("swap", 0.15), ("swap", 0.05), ("swap", 0.04)]
    assert record.evaluations == 12
    # 14 x 3/4 are for the region, which ends for want of them; 14 leave four swaps.
    for evaluations, tried in ((14, 4), (40, 4)):
        _, record = refine(asked(), START, Told(SINGLES, together), evaluations=evaluations)
        assert len(record.steps) == 1 + tried
        assert record.evaluations <= evaluations
        assert record.stopped == ("evaluations" if evaluations == 14 else "no better plan in reach")
    # Here one swap alone promises anything: OV of layer 1 up by what QK of layer 0 frees.
    one = [{-1: 0.2, 1: -0.1}, {-1: 0.7, 1: -0.1}, {-1: 0.8, 1: -0.1}, {-1: 0.6, 1: -0.55}]
    _, record = refine(asked(), START, Told(one, {(-1, 0, 0, 1): 2.3}), evaluations=40)
    assert [step["kind"] for step in record.steps] == ["region", "swap"]
    assert [step["promised_nats"] for step in record.steps] == pytest.approx([0.35, 0.35])


@pytest.mark.parametrize(
    ("evaluations", "factors", "room", "measured", "spent", "promise"),
    [
        # What fits in 3/4 of the evaluations less one: by stake QK 1 (2), QK 0 (3), OV 0 (2, or 3 alone), OV 1 (1).
        (3, (9, 9, 9, 9), 0, [], 1, 0.3),
        (8, (2, 2, 2, 2), 0, [(1, "qk"), (1, "ov")], 4, 0.6),
        (10, (2, 2, 2, 2), 0, [(1, "qk"), (0, "qk")], 6, 0.6),
        (12, (2, 2, 2, 2), 0, [(1, "qk"), (0, "qk"), (0, "ov")], 8, 0.6),
        (14, (2, 2, 2, 2), 0, [(1, "qk"), (0, "qk"), (0, "ov"), (1, "ov")], 9, 0.6),
        # OV 1 is not measured: it goes by the median of 0.5, 2 and 3.
        (12, (2, 3, 0.5, 9), 0, [(1, "qk"), (0, "qk"), (0, "ov")], 8, 0.65),
        # QK 1 gains where it is cut and loses where it grows: noise, a factor of 0. The OVs go by 1, between that and 2.
        (10, (2, 9, -0.5, 9), 1, [(1, "qk"), (0, "qk")], 6, 1.1),
    ],
)
def test_those_with_most_at_stake_are_measured_and_speak_for_the_others(
    evaluations: int,
    factors: tuple[float, ...],
    room: int,
    measured: list[Place],
    spent: float,
    promise: float,
) -> None:
    sizes, seen = (2, 1.5, 3, 1), []
    measure = Told(scaled(sizes, factors), start=9.0)
    _, record = refine(
        asked(sizes, room),
        START,
        measure,
        evaluations=evaluations,
        on_step=lambda record: seen.append(record.evaluations),
    )
    assert measure.trials[:1] == ([{place: [1, 3] for place in measured}] if measured else [])
    assert list(measure.trials[0] if measured else {}) == measured
    assert seen[:2] == [1, spent]
    assert record.steps[0]["promised_nats"] == pytest.approx(promise)


def test_what_is_tied_is_not_measured_and_its_curves_speak_for_it() -> None:
    """The OVs have 3 and 2 times the changes of their curves, so the QKs of (2 + 3) x 0.2 get 2.5 times that."""
    sizes = (2, 1.5, 3, 1)
    measure = Told(scaled(sizes, (9, 3, 9, 2)), start=9.0)
    _, record = refine(asked(sizes, tie=["qk"]), START, measure, evaluations=40)
    assert measure.trials[0] == {(0, "ov"): [1, 3], (1, "ov"): [1, 3]}
    # 2.5 - 1.35 - 0.6
    assert record.steps[0]["promised_nats"] == pytest.approx(0.55)


def test_the_region_doubles_after_a_success_and_halves_after_a_failure() -> None:
    """First as above, and taken: ranks 1, 1, 3 and 3. Then changes of up to two units are measured, and the curves' shape says
    -0.6 of QK 0 and 0.16 and 0.4 of QK 1 and OV 1 for a unit.
    """
    second = {
        ((0, "qk"), 3): -1.0, ((0, "ov"), 3): -0.1,
        ((1, "qk"), 1): 0.4, ((1, "qk"), 4): -0.01, ((1, "ov"), 1): 1.0, ((1, "ov"), 4): -0.02,
    }  # fmt: skip
    two_up, one_up, other = (1, -1, -1, 1), (0, -1, 0, 1), (0, -1, 1, 0)
    together = {BOTH: 1.8, two_up: 1.95, one_up: 1.9, other: 1.85}
    measure = Told(SINGLES, together, second=second)
    ranks, record = refine(asked(), START, measure, evaluations=60)
    assert measure.trials[1] == {(0, "qk"): [3], (0, "ov"): [3], (1, "qk"): [1, 4], (1, "ov"): [1, 4]}
    steps = [
        (step["kind"], round(step["promised_nats"], 9), step["from_nats"], step["to_nats"], step["taken"])
        for step in record.steps
    ]
    assert steps == [
        ("region", 0.4, 2.0, 1.8, True),
        ("region", 0.6, 1.8, 1.95, False),
        ("region", 0.44, 1.8, 1.9, False),
        ("swap", 0.44, 1.8, 1.9, False),
        ("swap", 0.2, 1.8, 1.85, False),
    ]
    assert (moves_of(ranks), record.final_nats) == (BOTH, 1.8)
    # 1 + 8 + 1; of layer 0 the streams and two runs, of layer 1 the streams and four halves; two steps and two swaps.
    assert record.evaluations == 10 + 6 + 2 + 2


@pytest.mark.parametrize(
    ("loss", "additive"), [(1.32, True), (1.34, False), (1.1, True), (1.08, False), (1.2, True)]
)
def test_curves_are_believed_within_a_tenth_of_the_measured_loss(loss: float, additive: bool) -> None:
    """They say 1.2 nats: 1.2 / 1.1 = 1.0909 and 1.2 / 0.9 = 1.3333 are the ends."""
    ranks, record = refine(asked(), START, Told(SINGLES, start=loss), evaluations=40)
    assert record.additive == additive
    if additive:
        assert (ranks, record.stopped, record.evaluations) == (START, "additive", 1)
        assert (record.final_nats, record.steps) == (loss, [])


def test_a_gain_below_a_hundredth_ends_it() -> None:
    measure = Told(SINGLES, {BOTH: 1.99})
    ranks, record = refine(asked(), START, measure, evaluations=60)
    assert (moves_of(ranks), record.final_nats, record.evaluations) == (BOTH, 1.99, 10)
    assert [(step["kind"], step["taken"]) for step in record.steps] == [("region", True)]
    assert record.stopped == "it no longer pays"
    # A promise below a hundredth is not measured, except as a swap.
    small = [{-1: 0.2, 1: -0.2}, {-1: 0.3, 1: -0.2}, {-1: 0.3, 1: -0.2}, {-1: 0.3, 1: -0.219}]
    _, record = refine(asked(), START, Told(small, {(-1, 0, 0, 1): 2.1}), evaluations=60)
    assert record.stopped == "no better plan in reach"
    assert [step["kind"] for step in record.steps] == ["swap", "swap", "swap"]


def test_what_loses_as_much_is_not_taken() -> None:
    together = {BOTH: 2.0, **{moves: 2.0 for _, moves in SWAPS}}
    ranks, record = refine(asked(), START, Told(SINGLES, together), evaluations=40)
    assert (ranks, record.final_nats) == (START, 2.0)
    assert [step["taken"] for step in record.steps] == [False] * 5


def test_the_region_ends_where_another_plan_would_take_what_is_kept_for_swaps() -> None:
    """8 x 3/4: the start, two components of layer 1 and a plan are 5; one more would be 6."""
    sizes = (2, 1.5, 3, 1)
    measure = Told(scaled(sizes, (2, 2, 2, 2)), {(0, 0, 1, -1): 9.5}, start=9.0)
    _, record = refine(asked(sizes), START, measure, evaluations=8)
    assert [(step["kind"], step["to_nats"]) for step in record.steps][:1] == [("region", 9.5)]
    assert record.stopped == "evaluations"


def test_stake_is_what_a_curve_changes_not_what_it_loses() -> None:
    high_and_flat = (0.91, 0.9, 0.89, 0.0)
    tenth = tuple(loss / 10 for loss in SHAPE)
    profile = tiny_profile([tenth, tenth, SHAPE, SHAPE, high_and_flat, SHAPE])
    program = question(profile, parse_budgets([f"block_params={6 * 16}"]), {"pin": ["*.mlp=dense"]})
    measure = Told(SINGLES, start=5.0)
    refine(program, START, measure, evaluations=8)
    assert list(measure.trials[0]) == [(1, "qk"), (1, "ov")]


@dataclass
class Lines:
    """What changes of two components bring, each linear in its rank; every other plan is worse."""

    slopes: Mapping[Place, float]
    start: Ranks

    def plan(self, ranks: Ranks) -> float:
        return 2.0 if ranks == self.start else 3.0

    def changes(self, ranks: Ranks, trials: Mapping[Place, Sequence[int]]) -> dict[tuple[Place, int], float]:
        return {
            (place, rank): self.slopes[place] * (rank - ranks.of(place[1])[place[0]])
            for place, at in trials.items()
            for rank in at
        }


def linear(start: Ranks, pins: Sequence[str]) -> Question:
    """`small_profile` with losses linear in the rank, of which pins leave two components, and room for ``start``."""
    profile = small_profile()
    curves = tuple(
        curve.replaced(
            loss_nats=tuple(0.01 * (len(curve.ranks) - 1 - spot) for spot in range(len(curve.ranks)))
        )
        for curve in profile.curves
    )
    budgets = parse_budgets([f"block_params={small_costs(start)['block_params']}"])
    return question(profile.replaced(curves=curves), budgets, {"pin": list(pins)})


def test_a_failure_halves_the_region_until_one_step_is_left() -> None:
    """MLPs of 64 ranks, eighths of 8 steps of 2: one up for 0.1 a step, the other down for half of it."""
    start = Ranks((16, 16), (16, 16), (64, 64))
    program = linear(start, ["*.qk=dense", "*.ov=dense"])
    measure = Lines({(0, "mlp"): -0.05, (1, "mlp"): -0.025}, start)
    ranks, record = refine(program, start, measure, evaluations=40)
    steps = [(step["kind"], round(step["promised_nats"], 9)) for step in record.steps]
    assert steps == [("region", 0.4), ("region", 0.2), ("region", 0.1), ("region", 0.05), ("swap", 0.05)]
    assert (ranks, record.final_nats) == (start, 2.0)


def test_a_swap_goes_up_by_all_that_the_one_down_frees() -> None:
    """A step of QK is 768 parameters, one of an MLP 384: two of them for 0.1 each, less 0.1 for QK's."""
    start = Ranks((10, 16), (16, 16), (128, 64))
    program = linear(start, ["1.qk=dense", "*.ov=dense", "0.mlp=dense"])
    measure = Lines({(0, "qk"): -0.05, (1, "mlp"): -0.05}, start)
    # Three quarters of 10: the start, 3 for QK, 2 for the MLP, and one plan.
    _, record = refine(program, start, measure, evaluations=10)
    steps = [(step["kind"], round(step["promised_nats"], 9)) for step in record.steps]
    assert steps == [("region", 0.1), ("swap", 0.1)]
    assert record.stopped == "evaluations"


def test_a_record_as_a_document() -> None:
    record = Record(
        evaluations=3.14159, predicted_nats=0.9, start_nats=1.2, final_nats=1.0, stopped="evaluations"
    )
    assert record.document() == {
        "evaluations": 3.14,
        "additivity_error": pytest.approx(0.25),
        "predicted_nats": 0.9,
        "start_nats": 1.2,
        "final_nats": 1.0,
        "stopped": "evaluations",
        "steps": [],
    }
    assert not record.additive
    assert Record(predicted_nats=1e-13).document()["additivity_error"] == pytest.approx(-0.1)
