"""Teams, members, tokens and the audit trail over REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.plan.files.portable import export_profile
from allocator.store import Store
from tests.support.profiles import measured_profile
from tests.support.teams import bearer

Login = Callable[..., TestClient]


@pytest.fixture
def operator(login: Login) -> TestClient:
    return login("default", "olga", "admin")


def _acts(client: TestClient, **filters: str) -> list[tuple[str, str, str, str]]:
    items = client.get("/v1/audit", params=filters).json()["items"]
    return [(each["actor"], each["action"], each["kind"], each["key"]) for each in reversed(items)]


def test_a_team_from_its_making_to_its_members_own_token(operator: TestClient, store: Store) -> None:
    assert operator.post("/v1/teams", json={"name": "vision"}).status_code == 201
    assert operator.post("/v1/teams", json={"name": "vision"}).status_code == 409
    url = "/v1/teams/vision/members/ada"
    answer = operator.put(url, json={"role": "submit"})
    assert (answer.status_code, answer.json()["role"]) == (201, "submit")
    assert operator.put(url, json={"role": "admin"}).status_code == 200
    (member,) = operator.get("/v1/teams/vision/members").json()["items"]
    assert (member["name"], member["role"]) == ("ada", "admin")
    assert {each["name"] for each in operator.get("/v1/teams").json()["items"]} == {"default", "vision"}
    assert [entry.actor for entry in store.audit.find("vision").items] == ["default/olga"] * 3


def test_an_admin_makes_a_token_whose_secret_is_shown_once(login: Login, store: Store) -> None:
    ada = login("vision", "ada", "admin")
    ada.put("/v1/teams/vision/members/bob", json={"role": "submit"})
    answer = ada.post("/v1/tokens", json={"name": "bob", "scope": "read", "expires": "12h"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    listed = ada.get("/v1/tokens").json()["items"][0]
    assert listed == {name: value for name, value in made.items() if name != "token"}
    who = ada.get("/v1/whoami", headers=bearer(made["token"])).json()
    expected = {"team": "vision", "name": "bob", "scope": "read", "operator": False, "token_id": made["id"]}
    assert who == expected
    assert _acts(ada, kind="token", key=made["id"]) == [("ada", "created", "token", made["id"])]
    assert ada.get("/v1/tokens").json()["items"][0]["last_used_at"] is not None


def test_a_member_lists_and_revokes_his_own_with_any_scope(login: Login, store: Store) -> None:
    ada, bob, rita = (
        login("vision", name, scope)
        for name, scope in (("ada", "admin"), ("bob", "submit"), ("rita", "read"))
    )
    own = {client: client.get("/v1/whoami").json()["token_id"] for client in (ada, bob, rita)}
    assert [each["id"] for each in rita.get("/v1/tokens").json()["items"]] == [own[rita]]
    assert len(ada.get("/v1/tokens").json()["items"]) == 3
    assert rita.delete(f"/v1/tokens/{own[bob]}").status_code == 403
    assert bob.delete(f"/v1/tokens/{own[ada]}").status_code == 403
    assert bob.delete("/v1/tokens/none").status_code == 403
    assert ada.delete("/v1/tokens/none").status_code == 404
    assert rita.delete(f"/v1/tokens/{own[rita]}").status_code == 204
    assert rita.get("/v1/whoami").status_code == 401
    assert ada.delete(f"/v1/tokens/{own[bob]}").status_code == 204
    assert ada.delete(f"/v1/tokens/{own[bob]}").status_code == 204, "repeating is harmless"
    assert bob.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "nobody"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "bob", "scope": "admin"}, "scope"),
        ({"name": "bob", "scope": "root"}, "scope"),
        ({"name": "bob", "expires": "soon"}, "expires"),
        ({"name": "bob", "expires": "0d"}, "expires"),
        ({"name": "bob", "team": "default"}, "team"),
        ({}, "name"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(
    login: Login, store: Store, body: dict[str, Any], field: str
) -> None:
    ada = login("vision", "ada", "admin")
    store.teams.put_member("vision", "bob", "submit", actor="ada")
    answer = ada.post("/v1/tokens", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert len(store.tokens.find("vision").items) == 1


@pytest.mark.parametrize("name", ["Vision", "", "-a", "a" * 64, "a/b", 7])
def test_a_team_name_that_cannot_be_is_refused(operator: TestClient, store: Store, name: Any) -> None:
    assert operator.post("/v1/teams", json={"name": name}).status_code == 422
    assert [team.name for team in store.teams.all()] == ["default"]


def test_an_admin_of_another_team_is_no_operator(login: Login, store: Store) -> None:
    store.teams.create("red", actor="op")
    ada = login("vision", "ada", "admin")
    refused = ada.post("/v1/teams", json={"name": "mine"})
    assert (refused.status_code, refused.json()["needed_scope"]) == (403, "admin")
    assert [each["name"] for each in ada.get("/v1/teams").json()["items"]] == ["vision"]
    for team in ("red", "default", "absent"):
        assert ada.get(f"/v1/teams/{team}/members").status_code == 404
        assert ada.put(f"/v1/teams/{team}/members/ada", json={"role": "admin"}).status_code == 404
        assert ada.delete(f"/v1/teams/{team}/members/olga").status_code == 404
    assert store.teams.members("red") == []


def test_members_of_the_operators_team_are_operators_only_as_admins(login: Login) -> None:
    assert login("default", "sam", "submit").post("/v1/teams", json={"name": "x"}).status_code == 403
    assert not login("default", "sam", "submit").get("/v1/whoami").json()["operator"]


def test_a_narrower_role_and_a_removal_are_felt_at_once(login: Login) -> None:
    ada, bob = login("vision", "ada", "admin"), login("vision", "bob", "submit")
    ada.put("/v1/teams/vision/members/bob", json={"role": "read"})
    assert bob.get("/v1/whoami").json()["scope"] == "read"
    assert bob.post("/v1/jobs", json={}).status_code == 403
    assert ada.delete("/v1/teams/vision/members/bob").status_code == 204
    assert bob.get("/v1/whoami").status_code == 401
    assert ada.delete("/v1/teams/vision/members/bob").status_code == 404


def test_what_a_team_does_is_in_its_trail_and_in_no_other(
    login: Login, operator: TestClient, tiny_model: str
) -> None:
    ada = login("vision", "ada", "admin")
    profile = measured_profile()
    imported = ada.post("/v1/profiles", content=export_profile(profile)).json()
    ada.post("/v1/profiles", content=export_profile(profile))
    body = {"profile_key": imported["key"], "budgets": ["params=0.9"]}
    plan = ada.post("/v1/plans", json=body).json()
    ada.post("/v1/plans", json=body)
    key = {"Idempotency-Key": "k"}
    job = ada.post("/v1/jobs", json={"kind": "profile", "model": tiny_model}, headers=key).json()
    ada.post("/v1/jobs", json={"kind": "profile", "model": tiny_model}, headers=key)
    ada.post(f"/v1/jobs/{job['id']}/cancel")
    ada.post(f"/v1/jobs/{job['id']}/cancel")
    mine = [act for act in _acts(ada) if act[0] == "ada"]
    assert mine == [
        ("ada", "imported", "profile", imported["key"]),
        ("ada", "made", "plan", plan["digest"]),
        ("ada", "submitted", "job", job["id"]),
        ("ada", "cancelled", "job", job["id"]),
    ]
    assert _acts(ada, action="made", kind="plan") == [mine[1]]
    assert not [act for act in _acts(operator) if act[0] == "ada"]
    page = ada.get("/v1/audit", params={"limit": 2}).json()
    assert len(page["items"]) == 2
    rest = ada.get("/v1/audit", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert rest["items"][0]["id"] < page["items"][1]["id"]
