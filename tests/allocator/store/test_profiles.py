"""Profiles in either database: found by the beginning of a key, by one team alone, and unchanged."""

from __future__ import annotations

import pytest

from allocator.base.errors import InvalidInput, NotFound
from allocator.plan.files.portable import export_profile
from allocator.store import Store
from tests.support.profiles import measured_profile, small_profile


def test_a_key_is_found_by_its_beginning_within_the_team(any_store: Store) -> None:
    for key in ("abcdef11", "abcdef22", "abcdef2233", "ab%def11"):
        any_store.profiles.put("ada", small_profile(key))
    any_store.profiles.put("bob", small_profile("abcdef99"))
    resolve = any_store.profiles.resolve
    assert resolve("ada", "abcdef1") == "abcdef11"
    assert resolve("ada", "abcdef22") == "abcdef22", "a whole key is never ambiguous"
    assert resolve("bob", "abcdef") == "abcdef99"
    with pytest.raises(InvalidInput, match="several") as caught:
        resolve("ada", "abcdef")
    assert "abcdef11, abcdef22" in caught.value.fields[0].allowed
    with pytest.raises(NotFound):
        resolve("ada", "abcdef9")
    with pytest.raises(NotFound):
        resolve("ada", "%%%%%%")
    for short in ("abcde", ""):
        with pytest.raises(InvalidInput, match="at least 6"):
            resolve("ada", short)


def test_what_a_database_gives_back_makes_the_same_file(any_store: Store) -> None:
    """PostgreSQL keeps numbers as decimals: large floats come back as integers."""
    first, *others = measured_profile().curves
    first = first.replaced(analytic=[1e17, 1.2345678901234567e-9, *first.analytic[2:]])
    profile = measured_profile().replaced(curves=[first, *others])
    any_store.profiles.put("ada", profile)
    assert export_profile(any_store.profiles.get("ada", profile.key)) == export_profile(profile)
