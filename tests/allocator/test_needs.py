"""What a profile measures next: found from stored numbers alone, by a stand-in for the model that gives known ones."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.plan.effort import BLOCK_WINDOWS, EFFORTS, Effort, component_ranks, gradient_ranks
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import admissible_ranks
from allocator.profiling.cost import profile_cost
from allocator.profiling.needs import PLAN, PLAN_RANK, Cut, LayerNeeds
from allocator.profiling.work import layer_passes
from tests.allocator.test_effort import make
from tests.support.profiles import small_profile

GEOMETRY = small_profile().model.geometry
MEASURED = ("fast", "standard", "thorough")
AROUND = [{"layer": layer, "qk": 8, "ov": 8, "mlp": 64} for layer in range(2)]


def layer(
    effort: Effort | str = "standard", *, index: int = 0, windows: int = 96, **options: Any
) -> LayerNeeds:
    chosen = EFFORTS[effort] if isinstance(effort, str) else effort
    return LayerNeeds(make(effort=chosen, **options), GEOMETRY, index, windows)


def value(cut: Cut, window: int, noise: float) -> float:
    """The KL that the stand-in gives: a loss that falls with the rank, and noise that is the window's own."""
    component, rank = cut[:2]
    level = {"qk": 0.1, "ov": 0.3, "mlp": 1.0, PLAN: 2.0}[component] / (1 + rank)
    return level * (1 + noise * random.Random(f"{cut}{window}").gauss(0, 1)) + 0.05


def unit(cut: Cut, block: int, size: int, noise: float) -> dict[str, Any]:
    inside = range(block * BLOCK_WINDOWS, block * BLOCK_WINDOWS + size)
    return {"kl_nats": [value(cut, window, noise) for window in inside]}


def measure(of: LayerNeeds, known: dict[str, Any], noise: float) -> int:
    """Do what is missing until nothing is. How many units were measured."""
    before = len(known)
    while wanted := of.missing(known):
        for block, cuts in wanted.items():
            for cut in cuts:
                assert of.key(cut, block) not in known
                known[of.key(cut, block)] = unit(cut, block, of.block_size(block), noise)
    return len(known) - before


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("windows", [4, 20, 48, 200])
def test_every_rank_is_measured_until_its_error_is_small_or_the_windows_are_used(
    noise: float, windows: int
) -> None:
    of, known = layer(windows=windows), {}
    measure(of, known, noise)
    share = of.effort.stderr_share
    for component in COMPONENTS:
        points = of.measurements(known, component)
        assert [p.rank for p in points] == component_ranks(GEOMETRY, of.effort, component)
        for point in points:
            values = [value((component, point.rank), n, noise) for n in range(point.windows)]
            assert point.loss_nats == pytest.approx(statistics.fmean(values))
            assert point.stderr_nats == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
            enough = point.stderr_nats <= share * point.loss_nats
            assert enough or point.windows == min(48, windows)
            if point.windows > 16:  # not before it was needed
                fewer = values[: (point.windows - 1) // 16 * 16]
                spread = statistics.stdev(fewer) / math.sqrt(len(fewer))
                assert spread > share * statistics.fmean(fewer)


def test_dearer_efforts_measure_only_what_cheaper_ones_have_not() -> None:
    known: dict[str, Any] = {}
    counts = {}
    for name in MEASURED:
        alone: dict[str, Any] = {}
        counts[name] = (measure(layer(name), known, 0.5), measure(layer(name), alone, 0.5))
        assert alone.keys() <= known.keys()
        for component in COMPONENTS:
            expected = layer(name).measurements(alone, component)
            assert layer(name).measurements(known, component) == expected
    assert counts["fast"][0] == counts["fast"][1]
    assert 0 < counts["standard"][0] < counts["standard"][1]
    assert 0 < counts["thorough"][0] < counts["thorough"][1]


@given(st.randoms(use_true_random=False), st.floats(0.01, 1))
def test_an_interrupted_layer_goes_on_where_it_was(chance: random.Random, noise: float) -> None:
    """Units stored in any order, any part of them, end at the same set."""
    whole: dict[str, Any] = {}
    of = layer(Effort(4, 16, 64, 0.1))
    measure(of, whole, noise)
    known = {key: value for key, value in whole.items() if chance.random() < 0.5}
    measure(of, known, noise)
    # Blocks beyond a gap may make others unnecessary, never wrong.
    for component in COMPONENTS:
        assert of.measurements(known, component) == of.measurements(whole, component)


def test_around_a_plan_losses_are_counted_from_the_full_rank_among_the_same_layers() -> None:
    of, known = layer(around=AROUND), {}
    measure(of, known, 0.2)
    assert (PLAN, PLAN_RANK) in of.cuts
    assert (PLAN, PLAN_RANK) not in replace(of, index=1).cuts
    for component in COMPONENTS:
        for point in of.measurements(known, component):
            full = GEOMETRY.full_rank(component)
            pairs = [
                value((component, point.rank), n, 0.2) - value((component, full), n, 0.2)
                for n in range(point.windows)
            ]
            assert point.loss_nats == pytest.approx(statistics.fmean(pairs))
            assert point.stderr_nats == pytest.approx(statistics.stdev(pairs) / math.sqrt(len(pairs)))


@pytest.mark.parametrize("around", [None, AROUND])
@pytest.mark.parametrize("name", MEASURED)
def test_stated_costs_bound_what_is_done(name: str, around: list[dict[str, int]] | None) -> None:
    named = layer(name, around=around).identity
    stated = profile_cost(named, GEOMETRY, 96)
    unit_passes = GEOMETRY.layers * (96 + stated.most_windows)
    for index in range(GEOMETRY.layers):
        for noise in (0.0, 5.0):
            of, known = layer(name, around=around, index=index), {}
            measure(of, known, noise)
            windows = {cut: len(of.values(known, cut)) for cut in of.cuts}
            longest = max(windows.values())
            # The dense model runs through both layers for the first, and on to the second for that.
            reference = 2 if index == 0 else 1
            passes = longest * (reference + (index if around else 0)) + sum(windows.values()) * (2 - index)
            assert passes / unit_passes <= stated.most[index] + 1e-9
            assert passes / unit_passes >= stated.least[index] - 1e-9
    assert layer_passes(1, 2, 3, 16, around=False) == 16 * (2 + 3)


def test_quantized_cuts_are_units_of_their_own_beside_the_others() -> None:
    plain, both = layer("fast"), layer("fast", bits=[8, 4])
    assert both.cuts[: len(plain.cuts)] == plain.cuts
    fewer = both.cuts[len(plain.cuts) :]
    assert {cut[2] for cut in fewer} == {8, 4}
    for component in COMPONENTS:
        for bits in (8, 4):
            ranks = [cut[1] for cut in fewer if cut[0] == component and cut[2] == bits]
            admissible = admissible_ranks(GEOMETRY, component, bits)
            assert set(ranks) <= set(admissible)
            assert ranks[-1] == GEOMETRY.full_rank(component), "quantized and not cut is an option too"
            assert ranks[0] == admissible[0]
    known: dict[str, Any] = {}
    first = measure(plain, known, 0.0)
    assert measure(both, known, 0.0) == len(fewer)
    assert first == len(plain.cuts)
    # What is quantized at its full rank is measured as long as any other cut, and no longer.
    noisy: dict[str, Any] = {}
    measure(both, noisy, 0.0)
    assert all(point.windows == 16 for point in both.measurements(noisy, "mlp", 8))
    points = both.measurements(noisy, "mlp", 4)
    assert [point.rank for point in points] == component_ranks(GEOMETRY, both.effort, "mlp", 4)


def test_a_profile_from_gradients_lacks_its_predictions_and_a_few_cuts() -> None:
    """Of many layers some are measured, of the others the smallest ranks; predictions are wanted of all, on blocks of their
    own.
    """
    geometry = GEOMETRY.replaced(layers=30)
    named = make(effort=replace(EFFORTS["gradient"], gradient_windows=32), geometry=geometry)
    layers = [LayerNeeds(named, geometry, index, 32) for index in range(30)]
    assert [each.index for each in layers if each.is_measured] == [0, 10, 19, 29]
    smallest = [(c, geometry.candidate_ranks(c)[0]) for c in COMPONENTS]
    assert all(each.cuts == smallest for each in layers if not each.is_measured)
    assert replace(layers[11], fully_measured=True).cuts == layers[10].cuts
    assert all(each.unpredicted({}) == [0, 1] for each in layers)
    known: dict[str, Any] = {}
    measure(layers[10], known, 0.1)
    for block in (0, 1):
        ranks = {c: gradient_ranks(geometry, EFFORTS["gradient"], c) for c in COMPONENTS}
        known[layers[10].gradient_key(block)] = {
            "components": {
                # Cuts are measured on the first windows of the first block alone, which are like no others.
                c: {"ranks": ranks[c], "kl_nats": [[0.1 / rank + block] * 8 + [0.3] * 8 for rank in ranks[c]]}
                for c in COMPONENTS
            }
        }
    assert layers[10].unpredicted(known) == []
    for component in COMPONENTS:
        found = layers[10].predictions(known, component)
        assert [point.rank for point in found] == ranks[component]
        assert all(point.same_windows_nats == pytest.approx(0.1 / point.rank) for point in found)
        assert all(point.loss_nats == pytest.approx((0.1 / point.rank + 0.5 + 0.3) / 2) for point in found)
        assert [point.windows for point in layers[10].measurements(known, component)] == [8, 8]
    measure(layers[11], known, 0.1)
    for block in (0, 1):
        # The first windows differ from the others of their block.
        values = {c: [[0.2] * 2 + [0.1] * 14 for _ in ranks[c]] for c in COMPONENTS}
        parts = {c: {"ranks": ranks[c], "kl_nats": values[c]} for c in COMPONENTS}
        known[layers[11].gradient_key(block)] = {"components": parts}
    for component in COMPONENTS:
        (point,) = layers[11].measurements(known, component)
        assert (point.rank, point.windows) == (geometry.candidate_ranks(component)[0], 2)
        for found in layers[11].predictions(known, component):
            assert (found.same_windows_nats, found.loss_nats) == pytest.approx((0.2, 0.1125))
    # What others have measured of these cuts on the whole block are other numbers.
    for few in layers[10:12]:
        assert few.key(smallest[0], 0) != replace(few, fully_measured=True).key(smallest[0], 0)
    stated = profile_cost(named, geometry, 32)
    assert stated.cuts == 24 + 26 * 3
    assert 2 < stated.document()["forward_equivalents"][0] < 14
    assert "8,192 tokens, 102 cuts" in stated.sentence()
