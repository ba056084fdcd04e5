"""Plans over REST, with a profile made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.plan.documents.profile import Profile
from allocator.store import Store
from tests.support.profiles import small_profile


@pytest.fixture
def profile(store: Store) -> Profile:
    document = small_profile()
    store.profiles.put("default", document)
    return document


def test_a_plan_is_solved_at_once_and_never_changes(client: TestClient, profile: Profile) -> None:
    body = {"profile_key": profile.key, "budgets": ["block_params=0.7", "kv_bytes_per_token=0.8"]}
    answer = client.post("/v1/plans", json=body)
    assert answer.status_code == 201
    plan = answer.json()
    assert all(budget["used"] <= budget["limit"] for budget in plan["budgets"])
    url = answer.headers["location"]
    stored = client.get(url)
    assert stored.json() == plan
    assert client.get(url, headers={"If-None-Match": stored.headers["etag"]}).status_code == 304
    assert client.post("/v1/plans", json=body).json()["digest"] == plan["digest"]
    (found,) = client.get("/v1/plans", params={"profile_key": profile.key}).json()["items"]
    assert found["digest"] == plan["digest"]
    assert client.get(f"{url}/measurements").json() == {"items": []}


def test_the_least_of_a_metric_at_a_loss(client: TestClient, profile: Profile) -> None:
    body = {"profile_key": profile.key, "budgets": ["block_params=0.7"]}
    usual = client.post("/v1/plans", json=body).json()
    loss = usual["predicted"]["loss_nats"]
    answer = client.post(
        "/v1/plans", json={**body, "budgets": [], "least": "block_params", "max_loss_nats": loss}
    )
    least = answer.json()
    assert answer.status_code == 201
    assert least["predicted"]["loss_nats"] <= loss
    assert least["costs"]["block_params"] <= usual["costs"]["block_params"]
    assert least["certificate"]["unit"] == "parameters"
    assert client.get(f"/v1/plans/{least['digest']}").json() == least


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"least": "block_params"}, "max_loss_nats"),
        ({"max_loss_nats": 0.1}, "least"),
        ({"least": "block_params", "max_loss_nats": 0.1, "allocation": "uniform"}, "allocation"),
    ],
)
def test_the_least_of_a_metric_needs_a_loss(
    client: TestClient, profile: Profile, change: dict[str, Any], field: str
) -> None:
    body = {"profile_key": profile.key, "budgets": ["params=0.8"], **change}
    answer = client.post("/v1/plans", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


def test_two_plans_are_compared(client: TestClient, profile: Profile) -> None:
    digests = [
        client.post(
            "/v1/plans", json={"profile_key": profile.key, "budgets": [f"block_params={share}"]}
        ).json()["digest"]
        for share in (0.9, 0.6)
    ]
    diff = client.get(f"/v1/plans/{digests[0]}/diff/{digests[1]}").json()
    assert diff["changes"]
    assert client.get(f"/v1/plans/{digests[0]}/diff/{digests[0]}").json()["changes"] == []


def test_an_infeasible_budget_says_what_could_be_reached(
    client: TestClient, profile: Profile, store: Store
) -> None:
    body = {"profile_key": profile.key, "budgets": ["block_params=0.01"]}
    answer = client.post("/v1/plans", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "budget_infeasible")
    (reach,) = answer.json()["achievable"]
    assert reach["minimum"] > reach["limit"]
    assert store.plans.find("default").items == []


@pytest.mark.parametrize(
    "change",
    [
        {"budgets": ["params=2x"]},
        {"budgets": []},
        {"allocation": "best"},
        {"extra": 1},
        {"program_solver": "cbc"},
    ],
)
def test_a_bad_plan_request_is_refused(client: TestClient, profile: Profile, change: dict[str, Any]) -> None:
    body = {"profile_key": profile.key, "budgets": ["params=0.8"], **change}
    assert client.post("/v1/plans", json=body).status_code == 422


def test_an_explanation_speaks_of_every_component(client: TestClient, store: Store) -> None:
    store.profiles.put("default", small_profile())
    body = {"profile_key": "small", "budgets": ["block_params=0.7"], "constraints": {"pin": ["0.mlp=dense"]}}
    plan = client.post("/v1/plans", json=body).json()
    found = client.get(f"/v1/plans/{plan['digest']}/explanation").json()
    assert len(found["components"]) == 6
    (pinned,) = [each for each in found["components"] if (each["layer"], each["component"]) == (0, "mlp")]
    assert (pinned["up"], pinned["down"], pinned["rank"]) == (None, None, 128)
    assert client.get("/v1/plans/no-such-plan/explanation").status_code == 404
