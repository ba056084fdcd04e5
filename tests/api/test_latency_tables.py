"""Latency tables over REST, and budgets that are counted in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.plan.documents.profile import Profile
from allocator.store import Store
from tests.support.latency import table, table_document
from tests.support.profiles import small_profile

BUDGET = "latency=0.6@batch=1,context=64,phase=decode"


@pytest.fixture
def profile(store: Store) -> Profile:
    document = small_profile()
    store.profiles.put("default", document)
    return document


def test_a_table_is_stored_listed_and_given_back(client: TestClient) -> None:
    data = json.dumps(table_document())
    answer = client.post("/v1/latency-tables", content=data)
    assert (answer.status_code, answer.json()) == (201, {"key": table().digest, "stored": True})
    again = client.post("/v1/latency-tables", content=data)
    assert (again.status_code, again.json()["stored"]) == (200, False)
    found = client.get(answer.headers["location"])
    assert found.json() == table().document
    url, tag = answer.headers["location"], found.headers["etag"]
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304
    (listed,) = client.get("/v1/latency-tables").json()["items"]
    assert (listed["digest"], listed["device"]) == (table().digest, "cpu: a CPU")
    assert client.get("/v1/latency-tables/none").status_code == 404


def test_a_damaged_table_is_refused_by_the_field(client: TestClient) -> None:
    document = table_document()
    document["timings"][0]["constant_ns"] = -1
    answer = client.post("/v1/latency-tables", content=json.dumps(document))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "timings.0.constant_ns"
    assert client.get("/v1/latency-tables").json()["items"] == []


def test_plans_and_frontiers_are_counted_in_it(client: TestClient, profile: Profile) -> None:
    client.post("/v1/latency-tables", content=json.dumps(table_document()))
    body = {"profile_key": profile.key, "budgets": [BUDGET], "latency_table": table().digest}
    answer = client.post("/v1/plans", json=body)
    assert answer.status_code == 201
    plan = answer.json()
    assert plan["budgets"][0]["used"] <= plan["budgets"][0]["limit"]
    assert plan["latency_table"]["digest"] == table().digest
    assert client.get(f"/v1/plans/{plan['digest']}/explanation").status_code == 200
    query = {"metric": BUDGET.replace("=0.6", "", 1), "points": 3, "latency_table": table().digest}
    points = client.get(f"/v1/profiles/{profile.key}/frontier", params=query).json()["points"]
    assert len(points) == 3
    without = client.post("/v1/plans", json={**body, "latency_table": None})
    assert without.status_code == 422
    assert without.json()["errors"][0]["field"] == "latency_table"
    assert client.post("/v1/plans", json={**body, "latency_table": "f" * 64}).status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({}, 202, ""),
        ({"latency_table": None}, 422, "rankalloc latency measured"),
        ({"latency_table": "f" * 64}, 404, "no latency table"),
        ({"budgets": ["latency=0.5@context=65,phase=decode"]}, 422, "was not measured at"),
        ({"kind": "profile", "budgets": []}, 422, "of kind plan or compress only"),
    ],
)
def test_a_job_is_refused_before_anything_is_measured(
    client: TestClient, tiny_model: str, change: dict[str, Any], status: int, said: str
) -> None:
    client.post("/v1/latency-tables", content=json.dumps(table_document()))
    body = {"kind": "plan", "model": tiny_model, "budgets": [BUDGET], "latency_table": table().digest}
    answer = client.post("/v1/jobs", json={**body, **change})
    assert answer.status_code == status
    assert said in answer.text
