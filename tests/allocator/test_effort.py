"""Content keys: every ingredient of a measured loss changes them, nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allocator.base.digests import digest
from allocator.plan.effort import (
    EFFORTS,
    LEAST_LONG_WINDOWS,
    component_ranks,
    evaluated,
    evaluation_tokens,
    gradient_ranks,
    measured_ranks,
    windows_scale,
)
from allocator.plan.identity import Identity, identity
from allocator.plan.model.geometry import Geometry
from allocator.profiling.needs import LayerNeeds
from tests.support.profiles import small_profile

GEOMETRY = small_profile().model.geometry.document


def make_geometry() -> Geometry:
    return Geometry.stored(GEOMETRY)


def make(**changes: Any) -> Any:
    ingredients: dict[str, Any] = {
        "weights_sha256": "w",
        "config_sha256": "c",
        "tokenizer_sha256": "t",
        "geometry": make_geometry(),
        "calibration_sha256": "text",
        "window_tokens": 256,
        "prefix": [1],
        "fit_windows": 96,
        "solver_version": "a3/1",
        "effort": EFFORTS["fast"],
    }
    return identity(**{**ingredients, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "x"},
        {"config_sha256": "x"},
        {"tokenizer_sha256": "x"},
        {"calibration_sha256": "x"},
        {"window_tokens": 128},
        {"prefix": []},
        {"fit_windows": 97},
        {"solver_version": "a3/2"},
        {"around": [{"layer": 0, "qk": 2, "ov": 2, "mlp": 4}]},
    ],
)
def test_every_ingredient_changes_the_profile_and_its_units(change: dict[str, Any]) -> None:
    one, other = make(), make(**change)
    assert one.profile_key != other.profile_key
    assert not set(units(one)) & set(units(other))
    only_measured = change.keys() <= {"around", "solver_version"}
    assert (one.moments_key() == other.moments_key()) == only_measured


def units(named: Any) -> list[str]:
    cuts = [("qk", 2, 0), ("ov", 2, 0), ("qk", 4, 0), ("qk", 2, 1)]
    return [
        key
        for layer in (0, 1)
        for key in (named.analytic_key(layer), *(named.loss_key(layer, *c) for c in cuts))
    ]


def test_another_effort_is_another_profile_of_the_same_units() -> None:
    one, other = make(), make(effort=EFFORTS["thorough"])
    assert one.profile_key != other.profile_key
    assert units(one) == units(other)
    assert one.moments_key() == other.moments_key()


def test_other_steps_are_other_curves_of_the_same_losses() -> None:
    """What a later version may choose otherwise: no profile on the old grid must pass for one on the new."""
    one = make()
    other = Identity({**one.document, "steps": {**one.document["steps"], "mlp": 1}})
    assert one.profile_key != other.profile_key
    assert one.analytic_key(0) != other.analytic_key(0)
    assert one.loss_key(0, "mlp", 8, 0) == other.loss_key(0, "mlp", 8, 0)
    assert one.moments_key() == other.moments_key()


def test_keys_of_parts_differ_and_repeat() -> None:
    one, again = make(), make()
    keys = [one.profile_key, one.context_key(), *units(one), one.moments_key(), one.solved_key()]
    assert len(set(keys)) == len(keys)
    assert keys == [
        again.profile_key,
        again.context_key(),
        *units(again),
        again.moments_key(),
        again.solved_key(),
    ]


def test_findings_are_those_of_moments_and_a_solver() -> None:
    one = make()
    assert one.solved_key() == make(effort=EFFORTS["gradient"]).solved_key()
    for change in ({"solver_version": "a3/2"}, {"fit_windows": 97}, {"weights_sha256": "x"}):
        assert one.solved_key() != make(**change).solved_key()


def test_measured_efforts_have_the_identities_that_they_had_before_gradients() -> None:
    for name in NESTED:
        found = make(effort=EFFORTS[name]).document["effort"]
        assert set(found) == {"points", "first_windows", "most_windows", "stderr_share", "spacing_halves"}
    assert {"gradient_windows", "labels", "layers"} <= set(
        make(effort=EFFORTS["gradient"]).document["effort"]
    )


@pytest.mark.parametrize(
    ("layers", "measured"), [(1, {0}), (5, set(range(5))), (8, set(range(8))), (30, {0, 10, 19, 29})]
)
def test_measured_layers_are_evenly_spread(layers: int, measured: set[int]) -> None:
    assert EFFORTS["gradient"].measured_layers(layers) == measured
    assert EFFORTS["fast"].measured_layers(layers) == set(range(layers))


def test_what_is_measured_is_predicted_too() -> None:
    effort_ = EFFORTS["gradient"]
    for component in ("qk", "ov", "mlp"):
        predicted = gradient_ranks(make_geometry(), effort_, component)
        assert set(component_ranks(make_geometry(), effort_, component)) <= set(predicted)


def test_tokens_of_the_evaluation_follow_the_standard_error_they_aim_at() -> None:
    assert evaluation_tokens(1.0) == 16_384
    assert evaluation_tokens(1e-3) == 65_536
    tokens = evaluation_tokens(0.1)
    assert (2 * 0.1 / tokens) ** 0.5 == pytest.approx(0.03 * 0.1, rel=1e-4)


def test_short_windows_come_in_as_many_tokens() -> None:
    """A model whose context is 16 tokens is measured on as many tokens as any other, not on a sixteenth."""
    for tokens in (11, 16, 100, 128, 255, 256):
        scale, named = windows_scale(tokens), make(window_tokens=tokens)
        assert 128 < scale * tokens <= 256
        assert named.block_windows == scale * 16
        standard, own = EFFORTS["standard"], EFFORTS["standard"].of_windows(scale)
        assert own.first_windows == scale * standard.first_windows
        assert own.most_windows == scale * standard.most_windows
        assert own.points == standard.points
    assert windows_scale(256) == 1


NESTED = ("fast", "standard", "thorough")
"""Efforts each of which continues the one before."""

WRITTEN = {
    # Of the version in which moments became one set: what changes them makes everybody measure again.
    (256, 96): (
        "231364928a49d2afd7657a1993f97c640e067bfaf50eb539da6ae4a18f8fb638",
        "965f5a7d0b33e525dfcdce9540153c14019444dc30445f8f421cba2daccdc97c",
        "c9824ffeb4c3ed8cd291520fff70408e78b14ba652f2821cb502f2530568938e",
    ),
    (64, 768): (
        "eaf4d9c9bcb4bbc8938293cec05fdaf15a9beb0a9935a381a8cd2a0d1bb71699",
        "f17ae240b06fb0221b69317149e48f4c0444f89c7aa7e3746ed11c78bf1b6bd9",
        "318bd506466d09d902d68741de6792688f4b567ac70e486ed5999d91435b0dda",
    ),
}


@pytest.mark.parametrize(("place", "keys"), WRITTEN.items())
def test_usual_windows_have_the_keys_that_they_always_had(
    place: tuple[int, int], keys: tuple[str, ...]
) -> None:
    named = make(window_tokens=place[0], fit_windows=place[1])
    assert (digest(named.document["solution"]), named.profile_key, named.moments_key()) == keys


@pytest.mark.parametrize("tokens", [257, 300, 511, 512, 1000, 1365, 2048, 4096, 100_000])
def test_long_windows_come_in_about_as_many_tokens(tokens: int) -> None:
    named, before = make(window_tokens=tokens, fit_windows=128), 0
    block = named.block_windows
    assert block >= 2
    for name in NESTED:
        usual, own = EFFORTS[name], EFFORTS[name].of_length(tokens)
        assert own.most_windows >= own.first_windows >= LEAST_LONG_WINDOWS
        assert own.first_windows % block == own.most_windows % block == 0, (
            "no block is cut short by its effort"
        )
        for windows, of_usual in (
            (own.first_windows, usual.first_windows),
            (own.most_windows, usual.most_windows),
        ):
            least = block * -(-LEAST_LONG_WINDOWS // block)
            assert windows == least or of_usual * 256 - block * tokens < windows * tokens <= of_usual * 256
        assert own.most_windows >= before
        before = own.most_windows
        assert (own.points, own.stderr_share) == (usual.points, usual.stderr_share)
    assert EFFORTS["standard"].of_length(256) == EFFORTS["standard"]
    assert EFFORTS["standard"].of_length(64) == EFFORTS["standard"].of_windows(4)


def test_every_block_of_a_cheaper_effort_is_one_of_a_dearer_one() -> None:
    """Units bear the number of their block alone: it must hold the same windows whoever asks."""
    for tokens in (300, 2048, 5000):
        block = make(window_tokens=tokens).block_windows
        sizes: dict[int, int] = {}
        for name in NESTED:
            named = make(window_tokens=tokens, effort=EFFORTS[name].of_length(tokens))
            layer = LayerNeeds(named, make_geometry(), 0, named.effort.most_windows)
            for number in range(layer.most_blocks):
                windows = min(block, layer.windows - number * block)
                assert sizes.setdefault(number, windows) == windows, (tokens, name)


@pytest.mark.parametrize(("tokens", "windows"), [(64, 1024), (256, 256), (300, 218), (2048, 32), (70_000, 1)])
def test_final_figures_are_over_as_many_tokens_whatever_the_windows(tokens: int, windows: int) -> None:
    text = torch.zeros(2000, 1).expand(2000, tokens)
    assert len(evaluated(text)) == windows


@pytest.mark.parametrize("candidates", [2, 5, 9, 14, 32, 65, 129])
def test_measured_ranks_are_denser_at_low_ranks_and_those_of_cheaper_efforts(candidates: int) -> None:
    ranks = [2 * (n + 1) for n in range(candidates)]
    found = {points: measured_ranks(ranks, points) for points in (4, 7, 13)}
    assert set(found[4]) <= set(found[7]) <= set(found[13]) <= set(ranks[:-1])
    for points, chosen in found.items():
        assert len(chosen) <= points
        assert chosen == sorted(set(chosen))
        assert {chosen[0], chosen[-1]} == {ranks[0], ranks[-2]}
    if candidates > 30:
        gaps = [after - before for before, after in zip(found[7], found[7][1:], strict=False)]
        assert gaps == sorted(gaps)


def test_profiles_of_evenly_spread_ranks_stay_so() -> None:
    """Profiles that were stored before ranks were spread otherwise say nothing of it."""
    document = make().document
    del document["effort"]["spacing_halves"]
    ranks = list(range(1, 33))
    assert Identity(document).effort.spacing_halves == 2
    assert measured_ranks(ranks, 4, 2) == [1, 11, 21, 31]
    assert Identity(document).profile_key != make().profile_key


def test_bits_name_other_units_and_profiles_and_change_none_without_them() -> None:
    plain, both = make(), make(bits=[8, 4])
    assert "bits" not in plain.document
    assert make(bits=[]).document == plain.document
    assert plain.profile_key != both.profile_key
    # Cuts in the checkpoint's own type, moments and analytic curves are shared with profiles that measure no others.
    assert units(plain) == units(both)
    assert plain.moments_key() == both.moments_key()
    place = {"layer": 1, "component": "qk", "rank": 2, "block": 0}
    written = digest({"solution": digest(plain.document["solution"]), "part": "loss", **place})
    assert plain.loss_key(1, "qk", 2, 0) == both.loss_key(1, "qk", 2, 0, None) == written
    fewer = {both.loss_key(1, "qk", 2, 0, bits) for bits in (None, 8, 4)}
    assert len(fewer) == 3
    assert both.loss_key(1, "qk", 2, 0, 8) == make(bits=[8]).loss_key(1, "qk", 2, 0, 8)
