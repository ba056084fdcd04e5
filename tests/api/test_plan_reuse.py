"""Plan reuse over REST: search, aliases under If-Match, notes, differences, lineage."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support.profiles import small_profile

ALIAS = "/v1/plan-aliases/prod"


@pytest.fixture
def digests(client: TestClient, store: Store) -> list[str]:
    """Three plans from one profile, the tightest last."""
    store.profiles.put("default", small_profile())
    bodies = [{"profile_key": "small", "budgets": [f"block_params={share}"]} for share in (0.9, 0.8, 0.6)]
    return [client.post("/v1/plans", json=body).json()["digest"] for body in bodies]


def _set(client: TestClient, digest: str, **headers: str) -> Any:
    return client.put(ALIAS, json={"plan": digest}, headers=headers)


def test_an_alias_is_made_moved_and_never_overwritten_blindly(client: TestClient, digests: list[str]) -> None:
    made = _set(client, digests[0], **{"If-None-Match": "*"})
    assert (made.status_code, made.json()["digest"], made.headers["etag"]) == (201, digests[0], '"1"')
    assert _set(client, digests[1]).status_code == 428
    assert _set(client, digests[1], **{"If-None-Match": "*"}).status_code == 412
    assert _set(client, digests[1], **{"If-None-Match": '"1"'}).status_code == 422
    moved = _set(client, digests[1], **{"If-Match": made.headers["etag"]})
    assert (moved.status_code, moved.headers["etag"]) == (200, '"2"')
    lost = _set(client, digests[2], **{"If-Match": made.headers["etag"]})
    assert (lost.status_code, lost.json()["code"]) == (412, "precondition_failed")
    assert "version 2" in lost.json()["detail"]
    for strange in ('W/"2"', '"x"', "2", ""):
        assert _set(client, digests[2], **{"If-Match": strange}).status_code == 412, strange
    assert client.get(ALIAS).json()["digest"] == digests[1]
    assert _set(client, digests[2], **{"If-Match": '"9", "2"'}).status_code == 200


def test_an_alias_is_rolled_back_listed_and_deleted(client: TestClient, digests: list[str]) -> None:
    _set(client, digests[0])
    _set(client, digests[1], **{"If-Match": '"1"'})
    assert client.post(f"{ALIAS}/rollback").status_code == 428
    back = client.post(f"{ALIAS}/rollback", headers={"If-Match": '"2"'})
    assert (back.json()["digest"], back.headers["etag"]) == (digests[0], '"3"')
    named = client.post(f"{ALIAS}/rollback", json={"version": 2}, headers={"If-Match": '"3"'})
    assert named.json()["digest"] == digests[1]
    assert client.post(f"{ALIAS}/rollback", json={"version": 0}, headers={"If-Match": "*"}).status_code == 422
    (listed,) = client.get("/v1/plan-aliases").json()["items"]
    assert listed["name"] == "prod"
    assert client.get("/v1/plan-aliases", params={"plan": digests[0]}).json()["items"] == []
    assert client.delete(ALIAS).status_code == 428
    assert client.delete(ALIAS, headers={"If-Match": '"4"'}).status_code == 204
    assert client.get(ALIAS).status_code == 404
    actions = [each["action"] for each in client.get(f"{ALIAS}/history").json()["items"]]
    assert actions == ["delete", "rollback", "rollback", "set", "set"]
    assert client.get(f"/v1/plans/{digests[1]}").status_code == 200
    assert client.get("/v1/plan-aliases/never/history").status_code == 404


def test_wherever_a_digest_goes_an_alias_and_a_beginning_go_too(
    client: TestClient, digests: list[str]
) -> None:
    _set(client, digests[2])
    whole = client.get(f"/v1/plans/{digests[2]}")
    assert "immutable" in whole.headers["cache-control"]
    for name in ("alias:prod", digests[2][:12]):
        answer = client.get(f"/v1/plans/{name}")
        assert answer.json() == whole.json()
        assert answer.headers["cache-control"] == "no-cache", "what a name means may change"
        assert answer.headers["content-location"] == f"/v1/plans/{digests[2]}"
        for rest in ("explanation", "measurements", "notes", "lineage", f"diff/{digests[0]}"):
            assert client.get(f"/v1/plans/{name}/{rest}").status_code == 200, rest
        assert client.get(f"/v1/plans/{digests[0]}/diff/{name}").json()["b"] == digests[2]
    assert client.get("/v1/plans/alias:none").status_code == 404
    assert _set(client, "alias:none", **{"If-Match": "*"}).status_code == 404
    assert client.get("/v1/plan-aliases", params={"plan": digests[2][:8]}).json()["items"]


def test_plans_are_searched(client: TestClient, digests: list[str]) -> None:
    def found(**query: object) -> list[str]:
        answer = client.get("/v1/plans", params=query)
        assert answer.status_code == 200, answer.text
        return [each["digest"] for each in answer.json()["items"]]

    limits = [client.get(f"/v1/plans/{digest}").json()["budgets"][0]["limit"] for digest in digests]
    losses = [client.get(f"/v1/plans/{digest}").json()["predicted"]["loss_nats"] for digest in digests]
    assert found(metric="block_params") == digests[::-1]
    assert found(metric="block_params", max_limit=limits[1]) == digests[:0:-1]
    assert found(metric="block_params", min_limit=limits[1], max_limit=limits[1]) == [digests[1]]
    assert found(metric="kv_bytes_per_token") == []
    assert found(min_loss_nats=losses[2]) == [digests[2]]
    assert found(max_loss_nats=losses[0], metric="block_params") == [digests[0]]
    assert found(model="local:small", weights_sha256="a" * 64, profile_key="small") == digests[::-1]
    client.put(f"/v1/plans/{digests[1]}/labels/good")
    _set(client, digests[0])
    assert found(label="good") == [digests[1]]
    assert found(alias="prod") == [digests[0]]
    assert client.get("/v1/plans", params={"max_limit": 3}).json()["errors"][0]["field"] == "metric"
    assert client.get("/v1/plans", params={"metric": "speed"}).status_code == 422
    assert client.get("/v1/plans", params={"min_loss_nats": "nan"}).status_code == 422


def test_notes_are_written_beside_the_plan(client: TestClient, digests: list[str]) -> None:
    url = f"/v1/plans/{digests[0]}"
    before = client.get(url).content
    assert client.put(f"{url}/labels/good").status_code == 201
    assert client.put(f"{url}/labels/good").status_code == 200
    assert client.put(f"{url}/labels/Bad").status_code == 422
    said = client.post(f"{url}/comments", json={"text": "Held up."})
    assert (said.status_code, said.json()["text"]) == (201, "Held up.")
    for wrong in ("", " ", "x" * 2001, "a\0b"):
        assert client.post(f"{url}/comments", json={"text": wrong}).status_code == 422
    _set(client, digests[0])
    notes = client.get(f"{url}/notes").json()
    assert [each["label"] for each in notes["labels"]] == ["good"]
    assert [each["text"] for each in notes["comments"]] == ["Held up."]
    assert [each["name"] for each in notes["aliases"]] == ["prod"]
    for _ in range(2):
        assert client.delete(f"{url}/labels/good").status_code == 204
    assert client.get(f"{url}/notes").json()["labels"] == []
    assert client.get(url).content == before
    assert client.post("/v1/plans/aaaaaaaa/comments", json={"text": "x"}).status_code == 404


def test_a_diff_says_what_each_change_costs(client: TestClient, store: Store, digests: list[str]) -> None:
    url = f"/v1/plans/{digests[0]}/diff/{digests[2]}"
    diff = client.get(url, params={"batch": 4, "context": 1000}).json()
    assert diff["losses_note"] is None
    total = sum(change["loss_nats"] for change in diff["changes"])
    assert total == pytest.approx(diff["predicted_loss_nats"]["change"])
    assert all(change["text"].startswith(f"layer {change['layer']} ") for change in diff["changes"])
    assert diff["kv_bytes"] == 4000 * diff["costs"]["kv_bytes_per_token"]["change"]
    assert client.get(url, params={"batch": 4}).json()["errors"][0]["field"] == "context"
    lost = store.plans.get("default", digests[0]).replaced(profile_key="gone", digest="d" * 64)
    store.plans.put("default", lost, created_by="me")
    unknown = client.get(f"/v1/plans/{'d' * 64}/diff/{'d' * 64}").json()
    assert "not stored here" in unknown["losses_note"]


def test_lineage_is_served(client: TestClient, digests: list[str]) -> None:
    found = client.get(f"/v1/plans/{digests[0]}/lineage").json()
    assert found["profile"]["key"] == "small"
    assert (found["derived_from"], found["derived"], found["applied_by"]) == (None, [], [])


def test_a_text_that_a_database_cannot_hold_is_refused_and_no_failure(
    any_settings: Settings, any_store: Store
) -> None:
    app = create_app(any_settings, store=any_store)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        for path in (
            "/v1/plans?label=a%00b",
            "/v1/plans/alias:a%00b",
            "/v1/jobs?model=%00",
            "/v1/plan-aliases/%00",
        ):
            # In a query the guard refuses it; in a path there is nothing of that name.
            assert client.get(path).status_code == (400 if "?" in path else 404), path
        assert client.put("/v1/plan-aliases/a%00b", json={"plan": "a\0b"}).status_code in (404, 422)
