"""Every route of the served application, walked without a token, with another team's, and with one that only reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.access import SCOPES
from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from tests.support.jobs import new_job
from tests.support.latency import table
from tests.support.profiles import measured_profile
from tests.support.teams import bearer, token

MARK = "red-secret"
"""Stands in everything of team red's that has room for a text."""
PLAN = {"profile_key": "f" * 64, "budgets": ["params=0.9"]}
"""A plan to be kept, which is what its route's scope depends on."""
OWN_LISTS = {
    "/v1/jobs",
    "/v1/profiles",
    "/v1/plans",
    "/v1/plan-aliases",
    "/v1/teams",
    "/v1/tokens",
    "/v1/shares",
    "/v1/whoami",
    "/v1/version",
}
"""What answers 200 to every team, with what is its own."""


@pytest.fixture
def ids(settings: Settings, store: Store, scripted: None) -> dict[str, str]:
    """What the parameters of the paths may be: the names of red's things."""
    token(store, "red", MARK, "admin")
    store.teams.create("green", actor="op")
    profile = measured_profile(reference=f"local:{MARK}").replaced(key="f" * 64)
    store.profiles.put("red", profile)
    plan = plan_from_profile(profile, ["block_params=0.8"], created_by=MARK)
    store.plans.put("red", plan, created_by=MARK)
    store.aliases.set("red", "prod", plan.digest, by=MARK, expected=None)
    store.notes.add_label("red", plan.digest, MARK, by=MARK)
    store.notes.add_comment("red", plan.digest, MARK, by=MARK)
    request = {"model": f"local:{MARK}", "budgets": [], "script": {"prepare": {"artifact": True}}}
    job = new_job(store, settings, "profile", request, team="red", created_by=MARK)
    executor = Executor(store, settings)
    while store.jobs.get("red", job).finished_at is None:
        stage = store.jobs.get("red", job).stage
        assert stage is not None
        for item in store.items.of_stage(job, stage):
            executor.execute(item.id)
    share, _ = store.shares.add("red", "plan", plan.digest, with_team="green", by=MARK)
    store.latency_tables.put("red", table(), created_by=MARK)
    return {
        "job_id": job,
        "name": store.artifacts.list("red", job)[0]["name"],
        "key": profile.key,
        "digest": plan.digest,
        "a": plan.digest,
        "b": plan.digest,
        "alias": "prod",
        "table": table().digest,
        "label": MARK,
        "team": "red",
        "member": MARK,
        "token_id": store.tokens.find("red").items[0].id,
        "share_id": share.id,
    }


def _routes(client: TestClient) -> list[tuple[str, str]]:
    """(method, path) of every operation under ``/v1`` that the application describes."""
    paths = client.get("/openapi.json").json()["paths"]
    found = [(method.upper(), path) for path in paths if path.startswith("/v1") for method in paths[path]]
    assert len(found) > 30
    return found


def _address(path: str, ids: dict[str, str]) -> str:
    try:
        return path.format(**ids)
    except KeyError as error:
        raise AssertionError(f"{path}: say in `ids` what {error} may be, of team red's") from None


def test_all_routes_are_described(client: TestClient) -> None:
    """So that the walks below miss none."""
    served = set()
    for route in _leaves(client.app.routes):  # type: ignore[attr-defined]
        for method in (getattr(route, "methods", None) or set()) - {"HEAD"}:
            served.add((method, route.path.replace(":path}", "}")))
    described = set(_routes(client))
    assert {each for each in served if each[1].startswith("/v1")} == described


def _leaves(routes: Any) -> Iterator[Any]:
    for route in routes:
        router = getattr(route, "original_router", route)
        if hasattr(router, "routes"):
            yield from _leaves(router.routes)
        else:
            yield route


def test_without_a_token_every_route_answers_401(client: TestClient, ids: dict[str, str]) -> None:
    for method, path in [*_routes(client), ("GET", "/v1"), ("GET", "/v1/absent"), ("PATCH", "/v1/jobs")]:
        answer = client.request(method, _address(path, ids))
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["code"], problem["status"]) == ("unauthenticated", 401)
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert MARK not in answer.text.replace(problem["instance"], "")
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_another_teams_token_gets_at_nothing(client: TestClient, store: Store, ids: dict[str, str]) -> None:
    for scope in ("read", "submit", "admin"):
        client.headers.update(bearer(token(store, "blue", "eve", scope)))
        for method, path in _routes(client):
            address = _address(path, ids)
            answer = client.request(method, address, **_valid(client, method, path))
            if "{" in path:
                assert answer.status_code in (403, 404), (method, path, answer.status_code, answer.text)
            elif method == "GET":
                assert answer.status_code in ({200} if path in OWN_LISTS else {200, 403}), (method, path)
            shown = answer.text.replace(answer.request.url.path, "")
            for piece in (MARK, '"layers"', ids["token_id"], ids["share_id"], ids["job_id"]):
                assert piece not in shown or piece in address, (method, path)
    assert store.jobs.get("red", ids["job_id"]).state == "succeeded"
    assert store.teams.role("red", MARK) == "admin"
    assert store.tokens.find("red").items[0].revoked_at is None
    assert store.shares.find("red").items


def _valid(client: TestClient, method: str, path: str) -> dict[str, Any]:
    """Query and body that pass validation, made from the description's examples, so that the object itself is looked for."""
    document = client.get("/openapi.json").json()
    operation = document["paths"][path][method.lower()]
    needed = [each for each in operation.get("parameters", []) if each["in"] == "query" and each["required"]]
    options: dict[str, Any] = {}
    if needed:
        options["params"] = {each["name"]: "params" for each in needed}
    content = operation.get("requestBody", {}).get("content", {})
    if "{" in path and "application/json" in content:
        schema = content["application/json"]["schema"]
        if "$ref" not in schema:  # a body that may be left out
            return options
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        options["json"] = {name: _example(path, schema, name) for name in schema.get("required", [])}
    return options


def _example(path: str, schema: dict[str, Any], name: str) -> Any:
    found = schema["properties"][name].get("examples")
    assert found, f"{path}: the body's {name} needs an example in its description"
    return found[0]


def test_a_token_that_only_reads_changes_nothing(
    client: TestClient, store: Store, ids: dict[str, str]
) -> None:
    client.headers.update(bearer(token(store, "red", "rita", "read")))
    for method, path in _routes(client):
        if method == "GET":
            continue
        options = {"json": PLAN} if path == "/v1/plans" else {}
        answer = client.request(method, _address(path, ids), **options)
        assert answer.status_code == 403, (method, path, answer.text)
        problem = answer.json()
        assert problem["code"] == "forbidden"
        assert problem["needed_scope"] in ("submit", "admin")
        assert problem["needed_scope"] in problem["detail"]
    assert store.tokens.find("red", name=MARK).items[0].revoked_at is None
    looked_at = client.post("/v1/plans", json={**PLAN, "profile_key": ids["key"], "store": False})
    assert looked_at.status_code == 200, "a plan that is not kept changes nothing"
    assert [each["digest"] for each in store.plans.find("red").items] == [ids["digest"]]


def test_the_scope_that_is_described_is_needed_and_enough(client: TestClient, store: Store) -> None:
    described = {
        (method.upper(), path): operation["security"][0]["token"]
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1")
    }
    assert {scope for (scope,) in described.values()} == set(SCOPES)
    for held in SCOPES[:-1]:
        client.headers.update(bearer(token(store, "red", held, held)))
        for (method, path), (scope,) in described.items():
            answer = client.request(method, re.sub(r"{\w+}", "absent", path))
            if SCOPES.index(scope) > SCOPES.index(held):
                assert (answer.status_code, answer.json()["needed_scope"]) == (403, scope), (method, path)
            elif method == "GET" or scope == held == "submit":
                assert answer.status_code != 403, (method, path)


def test_a_token_that_submits_does_not_manage(client: TestClient, store: Store, ids: dict[str, str]) -> None:
    client.headers.update(bearer(token(store, "red", "sam", "submit")))
    assert client.get("/v1/audit").json()["needed_scope"] == "admin"
    assert client.post("/v1/tokens", json={"name": "sam"}).status_code == 403
    assert client.delete(f"/v1/tokens/{ids['token_id']}").status_code == 403
    assert client.put("/v1/teams/red/members/sam", json={"role": "admin"}).status_code == 403
    assert client.delete(f"/v1/teams/red/members/{MARK}").status_code == 403
    assert [each["name"] for each in client.get("/v1/tokens").json()["items"]] == ["sam"]


def test_the_same_routes_answer_their_own_team(client: TestClient, store: Store, ids: dict[str, str]) -> None:
    """What the walks above refuse is there: they would also pass on an empty store."""
    client.headers.update(bearer(token(store, "red", "ada", "admin")))
    for method, path in _routes(client):
        if method == "GET":
            query = {"metric": "params"} if path.endswith("/frontier") else {}
            answer = client.get(_address(path, ids), params=query)
            assert answer.status_code == 200, (path, answer.text)


@pytest.mark.parametrize("what", ["profile_key", "around", "transfer", "share"])
def test_another_teams_things_cannot_be_named_in_a_body(
    client: TestClient, store: Store, ids: dict[str, str], tiny_model: str, what: str
) -> None:
    client.headers.update(bearer(token(store, "blue", "eve", "admin")))
    job = {"model": tiny_model, "budgets": ["params=0.8"]}
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "profile_key": ("/v1/plans", {"profile_key": ids["key"], "budgets": ["params=0.8"]}),
        "around": ("/v1/jobs", {**job, "kind": "plan", "around": ids["digest"]}),
        "transfer": ("/v1/jobs", {"kind": "transfer", "model": tiny_model, "profile": ids["key"]}),
        "share": ("/v1/shares", {"kind": "profile", "key": ids["key"], "with_team": "green"}),
    }
    path, body = requests[what]
    answer = client.post(path, json=body)
    assert answer.status_code == 404, answer.text
    assert MARK not in answer.text
    assert store.jobs.find("blue").items == []
