"""Teams, members, tokens and the audit trail, on both databases."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, update

from allocator.base.errors import InvalidInput, NotFound
from allocator.store import Store, audit
from allocator.store.clock import utc_in
from allocator.store.team_tables import audit as audit_rows
from allocator.store.team_tables import tokens
from tests.support.teams import add_member, token


def _acts(store: Store, team: str = "red") -> list[tuple[str, str, str, str]]:
    page = store.audit.find(team)
    return [(entry.actor, entry.action, entry.kind, entry.key) for entry in reversed(page.items)]


def _token_row(store: Store) -> Any:
    with store.database.read() as connection:
        return connection.execute(select(tokens)).one()


def _set(store: Store, **values: Any) -> None:
    with store.database.write() as connection:
        connection.execute(update(tokens).values(**values))


def test_a_team_is_made_once_and_has_members_by_name(any_store: Store) -> None:
    assert any_store.teams.create("red", actor="op")
    assert not any_store.teams.create("red", actor="op")
    assert any_store.teams.put_member("red", "bob", "read", actor="op")
    assert any_store.teams.put_member("red", "ada", "admin", actor="op")
    assert not any_store.teams.put_member("red", "bob", "submit", actor="ada")
    assert not any_store.teams.put_member("red", "bob", "submit", actor="ada"), "nothing changes"
    assert [(m.name, m.role) for m in any_store.teams.members("red")] == [("ada", "admin"), ("bob", "submit")]
    assert {team.name for team in any_store.teams.all()} == {"default", "red"}
    assert _acts(any_store) == [
        ("op", "created", "team", "red"),
        ("op", "created", "member", "bob"),
        ("op", "created", "member", "ada"),
        ("ada", "changed", "member", "bob"),
    ]
    assert any_store.audit.find("red", action="changed").items[0].detail == {"role": "submit", "was": "read"}


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda teams: teams.create("Red", actor="op"), InvalidInput),
        (lambda teams: teams.put_member("default", "a/b", "read", actor="op"), InvalidInput),
        (lambda teams: teams.put_member("default", "ada", "owner", actor="op"), InvalidInput),
        (lambda teams: teams.put_member("absent", "ada", "read", actor="op"), NotFound),
        (lambda teams: teams.remove_member("default", "nobody", actor="op"), NotFound),
        (lambda teams: teams.members("absent"), NotFound),
    ],
)
def test_what_is_refused_leaves_nothing(
    any_store: Store, act: Callable[[Any], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        act(any_store.teams)
    assert [team.name for team in any_store.teams.all()] == ["default"]
    assert any_store.teams.members("default") == []
    assert any_store.audit.find("default").items == []


def test_a_secret_is_random_found_by_its_hash_and_stored_nowhere(any_store: Store) -> None:
    secret, other = token(any_store, "red"), token(any_store, "blue")
    assert secret.startswith("ra_")
    assert len(secret) >= 3 + 43
    assert secret != other
    holder = any_store.tokens.holder(secret)
    assert holder is not None
    assert (holder.team, holder.name, holder.scope) == ("red", "ada", "submit")
    for wrong in (secret[:-1], secret + "x", secret.lower(), "", "ra_", holder.token_id):
        assert any_store.tokens.holder(wrong) is None
    with any_store.database.read() as connection:
        stored = [*connection.execute(select(tokens)).all(), *connection.execute(select(audit_rows)).all()]
    assert secret not in repr(stored)
    assert secret[9:] not in repr(stored)


def test_a_secret_does_not_show_in_what_carries_it(any_store: Store) -> None:
    add_member(any_store, "red")
    made = any_store.tokens.create("red", "ada", scope="read", lifetime_s=None, created_by="ada")
    assert made.secret not in repr(made)
    assert made.secret not in repr(any_store.tokens.holder(made.secret))
    assert made.secret.startswith(made.token.prefix)
    assert len(made.token.prefix) < 12


def test_a_revoked_token_is_dead_at_once_and_repeating_it_is_harmless(any_store: Store) -> None:
    secret = token(any_store, "red")
    token_id = any_store.tokens.find("red").items[0].id
    with pytest.raises(NotFound):
        any_store.tokens.revoke("blue", token_id, actor="eve")
    assert any_store.tokens.holder(secret) is not None
    any_store.tokens.revoke("red", token_id, actor="ada")
    first = _token_row(any_store).revoked_at
    any_store.tokens.revoke("red", token_id, actor="bob")
    assert any_store.tokens.holder(secret) is None
    assert _token_row(any_store).revoked_at == first
    assert [act for act in _acts(any_store) if act[1] == "revoked"] == [("ada", "revoked", "token", token_id)]
    assert any_store.tokens.any(), "a store that has had a token never counts as one without"


def test_a_token_expires_by_the_databases_clock(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = token(any_store, "red")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    _set(any_store, expires_at=utc_in(30))
    assert any_store.tokens.holder(secret) is not None
    _set(any_store, expires_at=utc_in(-0.001))
    assert any_store.tokens.holder(secret) is None


def test_a_lifetime_is_counted_from_the_databases_now(any_store: Store) -> None:
    add_member(any_store, "red")
    made = any_store.tokens.create("red", "ada", scope="read", lifetime_s=90.0, created_by="ada").token
    assert made.expires_at is not None
    assert (made.expires_at - made.created_at).total_seconds() == pytest.approx(90, abs=2)


def test_reading_with_a_token_writes_at_most_once_a_minute(any_store: Store) -> None:
    secret = token(any_store, "red")
    assert _token_row(any_store).last_used_at is None
    any_store.tokens.holder(secret)
    noted = _token_row(any_store).last_used_at
    assert noted is not None
    any_store.tokens.holder(secret)
    assert _token_row(any_store).last_used_at == noted
    _set(any_store, last_used_at=utc_in(-61))
    any_store.tokens.holder(secret)
    assert _token_row(any_store).last_used_at >= noted


def test_a_token_allows_no_more_than_its_members_role(any_store: Store) -> None:
    add_member(any_store, "red", "bob", "submit")
    with pytest.raises(InvalidInput, match=r"role of bob.*rankalloc teams members add red bob --role admin"):
        any_store.tokens.create("red", "bob", scope="admin", lifetime_s=None, created_by="ada")
    with pytest.raises(InvalidInput, match="a member of team red"):
        any_store.tokens.create("red", "eve", scope="read", lifetime_s=None, created_by="ada")
    assert not any_store.tokens.any()
    secret = token(any_store, "red", "bob", "submit", role="submit")
    any_store.teams.put_member("red", "bob", "read", actor="ada")
    holder = any_store.tokens.holder(secret)
    assert holder is not None
    assert holder.scope == "read"


def test_who_leaves_loses_his_tokens_for_good(any_store: Store) -> None:
    secret, others = token(any_store, "red", "bob"), token(any_store, "red", "ada")
    any_store.teams.remove_member("red", "bob", actor="ada")
    assert any_store.tokens.holder(secret) is None
    any_store.teams.put_member("red", "bob", "admin", actor="ada")
    assert any_store.tokens.holder(secret) is None, "coming back does not wake old tokens"
    assert any_store.tokens.holder(others) is not None
    (entry,) = any_store.audit.find("red", action="removed").items
    assert (entry.key, entry.detail) == ("bob", {"tokens_revoked": 1})


def test_tokens_are_listed_by_team_and_member(any_store: Store) -> None:
    for team, name in (("red", "ada"), ("red", "bob"), ("red", "bob"), ("blue", "ada")):
        token(any_store, team, name)
    assert [each.name for each in any_store.tokens.find("red").items] == ["bob", "bob", "ada"]
    page = any_store.tokens.find("red", name="bob", limit=1)
    rest = any_store.tokens.find("red", name="bob", limit=1, cursor=page.next_cursor)
    assert page.items[0].id > rest.items[0].id
    assert rest.next_cursor is None
    blue = any_store.tokens.find("blue").items[0].id
    assert any_store.tokens.owner("red", blue) is None
    assert any_store.tokens.owner("blue", blue) == "ada"


def test_an_act_that_is_rolled_back_leaves_no_entry(any_store: Store) -> None:
    with suppress(ZeroDivisionError), any_store.transaction() as connection:
        any_store.teams.create("red", actor="op")
        audit.add(connection, "red", "op", "aliased", "plan", "d" * 64, {"alias": "prod"})
        raise ZeroDivisionError
    assert _acts(any_store) == []
    assert not any_store.teams.exists("red")


def test_the_trail_is_one_teams_filtered_and_paged(any_store: Store) -> None:
    with any_store.transaction() as connection:
        for number in range(5):
            audit.add(connection, "red", "ada", "aliased", "plan", f"p{number}", {"n": number})
        audit.add(connection, "red", "bob", "applied", "plan", "p0")
        audit.add(connection, "blue", "eve", "aliased", "plan", "p0")
    page = any_store.audit.find("red", action="aliased", limit=3)
    rest = any_store.audit.find("red", action="aliased", limit=3, cursor=page.next_cursor)
    assert [entry.key for entry in (*page.items, *rest.items)] == ["p4", "p3", "p2", "p1", "p0"]
    assert rest.next_cursor is None
    assert [entry.actor for entry in any_store.audit.find("red", kind="plan", key="p0").items] == [
        "bob",
        "ada",
    ]
    assert page.items[0].detail == {"n": 4}
    assert any_store.audit.find("red", kind="job").items == []
