"""Content keys: every ingredient of a measured loss changes them, nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from allocator.digests import digest
from allocator.geometry import Geometry
from allocator.profiling import effort
from allocator.profiling.effort import (
    EFFORTS,
    FIT_SHARD_WINDOWS,
    FIT_WINDOWS,
    LEAST_LONG_WINDOWS,
    MOST_FIT_SHARDS,
    Identity,
    evaluated,
    identity,
    measured_ranks,
    windows_scale,
)
from allocator.profiling.needs import Layer
from tests.support.profiles import small_profile

GEOMETRY = small_profile()["model"]["geometry"]


def make_geometry() -> Geometry:
    return Geometry.from_document(GEOMETRY)


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
    assert (one.moments_key(0) == other.moments_key(0)) == only_measured


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
    assert one.moments_key(0) == other.moments_key(0)


def test_other_steps_are_other_curves_of_the_same_losses() -> None:
    """What a later version may choose otherwise: no profile on the old grid must pass for one on the new."""
    one = make()
    other = Identity({**one.document, "steps": {**one.document["steps"], "mlp": 1}})
    assert one.profile_key != other.profile_key
    assert one.analytic_key(0) != other.analytic_key(0)
    assert one.loss_key(0, "mlp", 8, 0) == other.loss_key(0, "mlp", 8, 0)
    assert one.moments_key(0) == other.moments_key(0)


def test_keys_of_parts_differ_and_repeat() -> None:
    one, again = make(), make()
    keys = [one.profile_key, one.context_key(), *units(one), one.moments_key(0), one.moments_key(1)]
    assert len(set(keys)) == len(keys)
    assert keys == [
        again.profile_key,
        again.context_key(),
        *units(again),
        again.moments_key(0),
        again.moments_key(1),
    ]


def test_shards_cover_all_fit_windows() -> None:
    for windows in (1, FIT_SHARD_WINDOWS, FIT_SHARD_WINDOWS + 1, FIT_WINDOWS):
        shards = make(fit_windows=windows).fit_shards
        assert (shards - 1) * FIT_SHARD_WINDOWS < windows <= shards * FIT_SHARD_WINDOWS


def test_short_windows_come_in_as_many_tokens() -> None:
    """A model whose context is 16 tokens is measured on as many tokens as any other, not on a sixteenth."""
    for tokens in (11, 16, 100, 128, 255, 256):
        scale, named = windows_scale(tokens), make(window_tokens=tokens)
        assert 128 < scale * tokens <= 256
        assert named.block_windows == scale * 16
        assert named.fit_shard_windows == scale * FIT_SHARD_WINDOWS
        standard, own = EFFORTS["standard"], EFFORTS["standard"].of_windows(scale)
        assert own.first_windows == scale * standard.first_windows
        assert own.most_windows == scale * standard.most_windows
        assert own.points == standard.points
    assert windows_scale(256) == 1


NESTED = ("fast", "standard", "thorough")
"""Efforts each of which continues the one before."""

WRITTEN = {
    # Computed by the version before requests could name windows: what a request that names none was, it stays.
    (256, 96): (
        "8b933ef7f6d78d60e7d815bafa5a1ed1c9eb12497cfca676a080ed2351efb500",
        "8ca740328c68dd38edeab1d184df8d5ee0cc38d537bb298b32bcdcaae67ec853",
        "b20752573ea20d663a93f11221279c34ec310be45379213ed97239f167e72355",
    ),
    (64, 768): (
        "daedb28e90c78416f6e191edf3331af849ce292016b8be4be5e208935dec4eaf",
        "92c112f5bc75cb05eccbbfc9e4ad2588b47fb471e3031b21d27bc1a75002be12",
        "62fb4764108c8b5862399da288a69efbf5765ae0fc1bf490ce59ef0859bdf0f5",
    ),
}


@pytest.mark.parametrize(("place", "keys"), WRITTEN.items())
def test_usual_windows_have_the_keys_that_they_always_had(
    place: tuple[int, int], keys: tuple[str, ...]
) -> None:
    named = make(window_tokens=place[0], fit_windows=place[1])
    assert (digest(named.document["solution"]), named.profile_key, named.moments_key(0)) == keys


@pytest.mark.parametrize("tokens", [257, 300, 511, 512, 1000, 1365, 2048, 4096, 100_000])
def test_long_windows_come_in_about_as_many_tokens(tokens: int) -> None:
    named, before = make(window_tokens=tokens, fit_windows=128), 0
    block = named.block_windows
    assert block >= 2
    assert named.fit_shards <= MOST_FIT_SHARDS
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
            layer = Layer(named, make_geometry(), 0, named.effort.most_windows)
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


def test_the_names_that_users_give_are_those_that_the_solvers_know() -> None:
    from solvers import SOLVER_VERSIONS
    from solvers.steps import SOLVERS as known

    assert set(effort.SOLVERS) == set(known) == set(SOLVER_VERSIONS)
    assert effort.DEFAULT_SOLVER in effort.SOLVERS


def test_bits_name_other_units_and_profiles_and_change_none_without_them() -> None:
    plain, both = make(), make(bits=[8, 4])
    assert "bits" not in plain.document
    assert make(bits=[]).document == plain.document
    assert plain.profile_key != both.profile_key
    # Cuts in the checkpoint's own type, moments and analytic curves are shared with profiles that measure no others.
    assert units(plain) == units(both)
    assert plain.moments_key(0) == both.moments_key(0)
    place = {"layer": 1, "component": "qk", "rank": 2, "block": 0}
    written = digest({"solution": digest(plain.document["solution"]), "part": "loss", **place})
    assert plain.loss_key(1, "qk", 2, 0) == both.loss_key(1, "qk", 2, 0, None) == written
    fewer = {both.loss_key(1, "qk", 2, 0, bits) for bits in (None, 8, 4)}
    assert len(fewer) == 3
    assert both.loss_key(1, "qk", 2, 0, 8) == make(bits=[8]).loss_key(1, "qk", 2, 0, 8)
