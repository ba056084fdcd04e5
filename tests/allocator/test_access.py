"""Names, scopes and lifetimes: plain rules."""

from __future__ import annotations

import pytest

from allocator.base import access
from allocator.base.errors import InvalidInput


def test_a_scope_contains_those_before_it() -> None:
    table = {(have, need) for have in access.SCOPES for need in access.SCOPES if access.allows(have, need)}
    assert table == {
        ("read", "read"),
        ("submit", "read"),
        ("submit", "submit"),
        ("admin", "read"),
        ("admin", "submit"),
        ("admin", "admin"),
    }
    assert access.lesser("admin", "read") == access.lesser("read", "submit") == "read"


@pytest.mark.parametrize("name", ["a", "0", "default", "vision-2", "a-", "x" * 63])
def test_team_names(name: str) -> None:
    assert access.check_team_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a b", "a/b", "x" * 64, "a\n", "ä"])
def test_names_that_no_team_has(name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        access.check_team_name(name)


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a b", "x" * 65, "a\n", "cli:root", "ü"])
def test_names_that_no_member_has(name: str) -> None:
    assert access.check_member_name("ada@example.org") == "ada@example.org"
    with pytest.raises(InvalidInput, match="name"):
        access.check_member_name(name)


def test_lifetimes() -> None:
    assert access.lifetime_s("90d") == 90 * 86400
    assert access.lifetime_s("12h") == 43200
    assert access.lifetime_s("30m") == 1800
    assert access.lifetime_s("never") is None


@pytest.mark.parametrize("text", ["", "0d", "-1d", "90", "d", "1.5d", "90D", "90d ", "3651d", "9999999h"])
def test_what_is_no_lifetime(text: str) -> None:
    with pytest.raises(InvalidInput, match="90d"):
        access.lifetime_s(text)
