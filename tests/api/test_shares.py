"""A profile and a plan of team red, shared with team blue and taken back, over REST."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from allocator.plan.documents.profile import Profile
from allocator.plan.files.portable import import_profile
from allocator.store import Store
from tests.support.profiles import measured_profile

Login = Callable[..., TestClient]
BUDGETS = ["block_params=0.8"]


@pytest.fixture
def red(login: Login) -> TestClient:
    return login("red", "ada")


@pytest.fixture
def blue(login: Login) -> TestClient:
    return login("blue", "bob")


@pytest.fixture
def profile(store: Store, red: TestClient) -> Profile:
    document = measured_profile()
    store.profiles.put("red", document)
    return document


def _share(client: TestClient, kind: str, key: str) -> str:
    answer = client.post("/v1/shares", json={"kind": kind, "key": key, "with_team": "blue"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _plan(client: TestClient, profile: Profile) -> str:
    answer = client.post("/v1/plans", json={"profile_key": profile.key, "budgets": BUDGETS})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["digest"])


VIEWS = ("", "/curves", "/curves?format=csv", "/sensitivity", "/export", "/heatmap.svg", "/curves.svg")


def test_a_shared_profile_is_read_in_all_its_views_and_planned_from(
    red: TestClient, blue: TestClient, store: Store, profile: Profile
) -> None:
    url = f"/v1/profiles/{profile.key}"
    assert {blue.get(url + view).status_code for view in VIEWS} == {404}
    share = _share(red, "profile", profile.key)
    assert {blue.get(url + view).status_code for view in VIEWS} == {200}
    assert blue.get(f"{url}/frontier?metric=params&points=2").status_code == 200
    assert blue.get(url).json() == {**profile.document, "shared_by": "red"}
    assert blue.get("/v1/profiles").json()["items"][0]["shared_by"] == "red"
    assert red.get("/v1/profiles").json()["items"][0]["shared_by"] is None
    assert import_profile(blue.get(url + "/export").content).profile.key == profile.key
    digest = _plan(blue, profile)
    assert store.plans.get("blue", digest).created_by == "bob"
    assert blue.get(f"/v1/plans/{digest}/explanation").status_code == 200
    assert red.get(f"/v1/plans/{digest}").status_code == 404
    assert red.delete(f"/v1/shares/{share}").status_code == 204
    assert {blue.get(url + view).status_code for view in VIEWS} == {404}
    assert blue.get("/v1/profiles").json()["items"] == []
    assert blue.get(f"/v1/plans/{digest}").status_code == 200, "what was made from it stays"
    refused = blue.get(f"/v1/plans/{digest}/explanation")
    assert refused.status_code == 409
    assert "not shared with your team" in refused.json()["detail"]
    again = blue.post("/v1/plans", json={"profile_key": profile.key, "budgets": ["params=0.9"]})
    assert again.status_code == 404


def test_what_is_shared_is_asked_for_again_each_time(
    red: TestClient, blue: TestClient, profile: Profile
) -> None:
    """A copy kept for a year would outlive the share."""
    share = _share(red, "profile", profile.key)
    for view in ("", "/curves", "/curves?format=csv"):
        url = f"/v1/profiles/{profile.key}{view}"
        assert "no-cache" in blue.get(url).headers["cache-control"]
        assert "immutable" in red.get(url).headers["cache-control"]
    url = f"/v1/profiles/{profile.key}"
    tag = blue.get(url).headers["etag"]
    assert tag != red.get(url).headers["etag"], "the documents differ"
    assert blue.get(url, headers={"If-None-Match": tag}).status_code == 304
    red.delete(f"/v1/shares/{share}")
    assert blue.get(url, headers={"If-None-Match": tag}).status_code == 404


def test_a_shared_plan_is_read_and_compared_but_explained_only_with_its_profile(
    red: TestClient, blue: TestClient, profile: Profile
) -> None:
    digest = _plan(red, profile)
    share = _share(red, "plan", digest)
    plan = blue.get(f"/v1/plans/{digest}").json()
    assert (plan["digest"], plan["shared_by"]) == (digest, "red")
    (listed,) = blue.get("/v1/plans").json()["items"]
    assert (listed["digest"], listed["shared_by"], listed["created_by"]) == (digest, "red", "ada")
    assert blue.get(f"/v1/plans/{digest}/diff/{digest}").json()["changes"] == []
    assert blue.get(f"/v1/plans/{digest}/measurements").status_code == 200
    refused = blue.get(f"/v1/plans/{digest}/explanation")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "profile" in refused.json()["detail"]
    assert blue.get(f"/v1/profiles/{profile.key}").status_code == 404
    _share(red, "profile", profile.key)
    assert blue.get(f"/v1/plans/{digest}/explanation").status_code == 200
    red.delete(f"/v1/shares/{share}")
    assert blue.get(f"/v1/plans/{digest}").status_code == 404


def test_a_job_may_name_a_shared_profile(
    red: TestClient, blue: TestClient, profile: Profile, tiny_model: str
) -> None:
    body = {"kind": "transfer", "model": tiny_model, "profile": profile.key}
    assert blue.post("/v1/jobs", json=body).status_code == 404
    _share(red, "profile", profile.key)
    assert blue.post("/v1/jobs", json=body).status_code == 202


def test_both_sides_see_the_share_and_only_the_owner_undoes_it(
    red: TestClient, blue: TestClient, login: Login, profile: Profile
) -> None:
    share = _share(red, "profile", profile.key)
    body = {"kind": "profile", "key": profile.key, "with_team": "blue"}
    again = red.post("/v1/shares", json=body)
    assert (again.status_code, again.json()["id"]) == (200, share)
    assert red.get("/v1/shares").json() == blue.get("/v1/shares").json()
    assert blue.get("/v1/shares", params={"direction": "given"}).json()["items"] == []
    assert blue.delete(f"/v1/shares/{share}").status_code == 404
    assert login("green").delete(f"/v1/shares/{share}").status_code == 404
    assert login("green").get("/v1/shares").json()["items"] == []
    assert red.delete(f"/v1/shares/{share}").status_code == 204
    assert red.delete(f"/v1/shares/{share}").status_code == 204, "repeating is harmless"
    assert blue.get("/v1/shares").json()["items"] == []
    (past,) = red.get("/v1/shares", params={"undone": True}).json()["items"]
    assert past["revoked_by"] == "ada"
    acts = login("red", "ann", "admin").get("/v1/audit", params={"key": profile.key}).json()["items"]
    assert [(act["action"], act["actor"]) for act in acts] == [("unshared", "ada"), ("shared", "ada")]


def test_a_shared_profile_cannot_be_shared_on(
    red: TestClient, blue: TestClient, login: Login, profile: Profile
) -> None:
    green = login("green")
    _share(red, "profile", profile.key)
    body = {"kind": "profile", "key": profile.key, "with_team": "green"}
    assert blue.post("/v1/shares", json=body).status_code == 404
    assert green.get("/v1/profiles").json()["items"] == []
