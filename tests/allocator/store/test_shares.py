"""Sharing profiles and plans between teams, and taking it back, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from allocator.base.errors import Conflict, InvalidInput, NotFound
from allocator.plan.documents.plan import Plan
from allocator.store import Store
from tests.support.plans import plan_named
from tests.support.profiles import small_profile


def _plan(digest: str, profile: str = "profile-1") -> Plan:
    return plan_named(digest, profile_key=profile)


@pytest.fixture
def teams(any_store: Store) -> Store:
    """Red has a profile and a plan from it; blue and green have nothing."""
    for name in ("red", "blue", "green"):
        any_store.teams.create(name, actor="op")
    any_store.profiles.put("red", small_profile("profile-1"))
    any_store.plans.put("red", _plan("plan-1"), created_by="ada")
    return any_store


def _share(store: Store, kind: str, key: str, team: str = "red", with_team: str = "blue") -> str:
    return store.shares.add(team, kind, key, with_team=with_team, by="ada")[0].id


def test_a_shared_profile_is_seen_as_shared_and_by_that_team_only(teams: Store) -> None:
    _share(teams, "profile", "profile-1")
    assert teams.profiles.get("blue", "profile-1") == small_profile("profile-1").replaced(shared_by="red")
    assert teams.profiles.get("red", "profile-1") == small_profile("profile-1")
    assert teams.profiles.resolve("blue", "profile") == "profile-1"
    (found,) = teams.profiles.find("blue").items
    assert (found["key"], found["shared_by"]) == ("profile-1", "red")
    assert "team" not in found
    assert teams.profiles.find("red").items[0]["shared_by"] is None
    assert teams.profiles.find("green").items == []
    for look in (teams.profiles.get, teams.profiles.resolve):
        with pytest.raises(NotFound):
            look("green", "profile-1")
    with pytest.raises(NotFound):
        teams.plans.get("blue", "plan-1")


def test_a_shared_profile_is_no_measurement_of_the_other_team(teams: Store) -> None:
    teams.units.put("red", "unit", {"loss": 0.1})
    _share(teams, "profile", "profile-1")
    assert not teams.profiles.exists("blue", "profile-1")
    assert teams.profiles.own("blue", "profile-1") is None
    assert teams.profiles.own("red", "profile-1") == small_profile("profile-1")
    assert teams.units.get_many("blue", ["unit"]) == {}


def test_undoing_hides_at_once_and_leaves_what_was_made_from_it(teams: Store) -> None:
    share = _share(teams, "profile", "profile-1")
    made = _plan("plan-2")
    teams.plans.put("blue", made, created_by="bob")
    assert teams.profiles.of_plan("blue", made).shared_by == "red"
    for other in ("blue", "green"):
        with pytest.raises(NotFound):
            teams.shares.undo(other, share, by="eve")
    assert teams.profiles.find("blue").items
    teams.shares.undo("red", share, by="ada")
    teams.shares.undo("red", share, by="ada")
    assert teams.profiles.find("blue").items == []
    for look in (teams.profiles.get, teams.profiles.resolve):
        with pytest.raises(NotFound):
            look("blue", "profile-1")
    assert teams.plans.get("blue", "plan-2") == made
    with pytest.raises(Conflict, match="not shared with your team"):
        teams.profiles.of_plan("blue", made)
    assert teams.profiles.of_plan("red", made) == small_profile("profile-1")


def test_a_shared_plan_comes_with_what_was_measured_on_it_but_not_with_itssmall_profile(teams: Store) -> None:
    teams.plans.add_measurement("red", "plan-1", "j1", {"loss_nats": 0.1})
    share = _share(teams, "plan", "plan-1")
    plan = teams.plans.get("blue", "plan-1")
    assert plan == _plan("plan-1").replaced(shared_by="red")
    summary = teams.plans.summary("blue", "plan-1")
    assert (summary["created_by"], summary["shared_by"]) == ("ada", "red")
    (found,) = teams.plans.find("blue", profile_key="profile-1").items
    assert found == summary
    assert [row["job_id"] for row in teams.plans.measurements("blue", "plan-1")] == ["j1"]
    with pytest.raises(Conflict, match="not shared with your team"):
        teams.profiles.of_plan("blue", plan)
    assert teams.profiles.find("blue").items == []
    teams.shares.undo("red", share, by="ada")
    assert teams.plans.find("blue").items == []
    assert teams.plans.measurements("blue", "plan-1") == []


def test_ones_own_comes_before_what_is_shared(teams: Store) -> None:
    _share(teams, "plan", "plan-1")
    teams.plans.put("blue", _plan("plan-1"), created_by="bob")
    assert teams.plans.get("blue", "plan-1").shared_by is None
    (found,) = teams.plans.find("blue").items
    assert (found["created_by"], found["shared_by"]) == ("bob", None)
    teams.plans.add_measurement("red", "plan-1", "j1", {})
    assert teams.plans.measurements("blue", "plan-1") == [], "each team has its own figures of its own plan"


def test_of_two_teams_that_share_the_same_the_first_is_named(teams: Store) -> None:
    teams.profiles.put("green", small_profile("profile-1"))
    first = _share(teams, "profile", "profile-1", team="green")
    _share(teams, "profile", "profile-1", team="red")
    assert [found["shared_by"] for found in teams.profiles.find("blue").items] == ["green"]
    assert teams.profiles.get("blue", "profile-1").shared_by == "green"
    teams.shares.undo("green", first, by="gil")
    assert teams.profiles.get("blue", "profile-1").shared_by == "red"


def test_what_is_shared_with_a_team_it_cannot_share_on(teams: Store) -> None:
    _share(teams, "profile", "profile-1")
    with pytest.raises(NotFound, match="of its own"):
        teams.shares.add("blue", "profile", "profile-1", with_team="green", by="bob")
    assert teams.profiles.find("green").items == []


@pytest.mark.parametrize(
    ("change", "field"),
    [({"with_team": "red"}, "with_team"), ({"with_team": "absent"}, "with_team"), ({"kind": "job"}, "kind")],
)
def test_a_share_that_makes_no_sense_is_refused(teams: Store, change: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        teams.shares.add(
            "red", **{"kind": "plan", "key": "plan-1", "with_team": "blue", "by": "ada", **change}
        )
    assert teams.shares.find("red").items == []


def test_sharing_again_is_the_same_share_until_it_was_undone(teams: Store) -> None:
    first, new = teams.shares.add("red", "plan", "plan-1", with_team="blue", by="ada")
    again, newer = teams.shares.add("red", "plan", "plan-1", with_team="blue", by="bob")
    assert (new, newer, again) == (True, False, first)
    teams.shares.undo("red", first.id, by="ada")
    assert _share(teams, "plan", "plan-1") != first.id
    assert len(teams.shares.find("red").items) == 1
    history = teams.shares.find("red", undone=True).items
    assert [share.revoked_by for share in history] == [None, "ada"]
    acts = teams.audit.find("red", kind="plan", key="plan-1").items
    assert [(act.action, act.detail.get("with")) for act in reversed(acts)] == [
        ("made", None),
        ("shared", "blue"),
        ("unshared", "blue"),
        ("shared", "blue"),
    ]


def test_of_many_that_share_at_once_one_share_comes(teams: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: _share(teams, "plan", "plan-1"), range(16)))
    assert len(ids) == 1
    assert len(teams.audit.find("red", action="shared").items) == 1


def test_shares_are_listed_from_both_sides(teams: Store) -> None:
    _share(teams, "plan", "plan-1")
    _share(teams, "plan", "plan-1", with_team="green")
    assert [share.with_team for share in teams.shares.find("red").items] == ["green", "blue"]
    assert [share.team for share in teams.shares.find("blue", directions=["received"]).items] == ["red"]
    assert teams.shares.find("blue", directions=["given"]).items == []
    assert teams.shares.find("default").items == []
    assert teams.shares.find("red", kind="profile").items == []


def test_shared_and_own_are_paged_together(teams: Store) -> None:
    for number in range(6):
        owner = "red" if number % 2 else "blue"
        teams.plans.put(owner, _plan(f"p{number}"), created_by="me")
        if owner == "red":
            _share(teams, "plan", f"p{number}")
    seen: list[str] = []
    cursor = None
    while True:
        page = teams.plans.find("blue", limit=2, cursor=cursor)
        seen += [found["digest"] for found in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [f"p{number}" for number in reversed(range(6))]


@pytest.mark.parametrize(("kind", "name"), [("profile", "profile-1"), ("plan", "plan-1")])
def test_a_row_is_read_as_itself_or_not_at_all(teams: Store, kind: str, name: str) -> None:
    """Between `locate` and `get` a team's own may come to stand before a shared one of the same name."""
    seen: Any = teams.profiles if kind == "profile" else teams.plans
    for look in (seen.locate, seen.get):
        with pytest.raises(NotFound):
            look("blue", name)
    share = _share(teams, kind, name)
    row, reds = seen.locate("blue", name), seen.locate("red", name)
    assert (row.id, row.shared_by, reds.shared_by) == (reds.id, "red", None)
    assert seen.document("blue", name, row=row) == seen.document("blue", name)
    if kind == "profile":
        teams.profiles.put("blue", small_profile(name))
    else:
        teams.plans.put("blue", _plan(name), created_by="bob")
    with pytest.raises(NotFound):
        seen.document("blue", name, row=row)
    own = seen.locate("blue", name)
    assert own.shared_by is None
    assert own.id != row.id
    assert seen.document("red", name, row=reds) == seen.document("red", name)
    with pytest.raises(NotFound):
        seen.document("green", name, row=reds)
    teams.shares.undo("red", share, by="ada")
    assert seen.locate("blue", name) == own
