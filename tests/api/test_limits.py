"""Limits per caller and per team, and bodies that are nested too deeply."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from allocator.base.errors import TooManyRequests
from allocator.base.settings import Settings
from allocator.jobs.submit import submit
from allocator.stages.request import Request
from allocator.store import Store
from api.app import create_app
from api.web.limits import MAX_JSON_DEPTH, RequestRate, json_depth
from tests.support.teams import bearer, token

BODY = {"kind": "profile", "model": "local:tiny"}


def _client(settings: Settings, store: Store, **changes: int) -> TestClient:
    app = create_app(settings.model_copy(update=changes), store=store)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def test_a_caller_has_so_many_requests_a_minute(settings: Settings, store: Store) -> None:
    client = _client(settings, store, requests_per_minute=3)
    red, blue = bearer(token(store, "red")), bearer(token(store, "blue"))
    assert [client.get("/v1/jobs", headers=red).status_code for _ in range(3)] == [200] * 3
    refused = client.get("/v1/jobs", headers=red)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert client.get("/v1/jobs", headers=blue).status_code == 200, "each caller for himself"
    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/healthz").status_code == 200


def test_the_bucket_fills_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    rate = RequestRate(60)
    for _ in range(60):
        rate.take("me")
    with pytest.raises(TooManyRequests) as caught:
        rate.take("me")
    assert caught.value.retry_after_s == 1
    now += 2.0
    rate.take("me")
    rate.take("me")
    with pytest.raises(TooManyRequests):
        rate.take("me")
    now += 3600.0
    for _ in range(60):
        rate.take("me")
    with pytest.raises(TooManyRequests):
        rate.take("me")


def test_a_team_has_so_many_open_jobs(
    settings: Settings, store: Store, scripted: None, tiny_model: str
) -> None:
    client = _client(settings, store, max_open_jobs=2)
    first = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "k"}).json()["id"]
    assert client.post("/v1/jobs", json=BODY).status_code == 202
    refused = client.post("/v1/jobs", json=BODY)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert "RANKALLOC_MAX_OPEN_JOBS" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert len(client.get("/v1/jobs").json()["items"]) == 2, "nothing of it is stored"
    assert len(store.audit.find("default", action="submitted").items) == 2
    repeated = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "k"})
    assert (repeated.status_code, repeated.json()["id"]) == (202, first)
    red = bearer(token(store, "red"))
    assert client.post("/v1/jobs", json=BODY, headers=red).status_code == 202, "each team for itself"
    client.post(f"/v1/jobs/{first}/cancel", headers=bearer(token(store, "default")))
    assert client.post("/v1/jobs", json=BODY, headers=bearer(token(store, "default"))).status_code == 202


def test_a_job_of_the_command_line_is_not_counted(settings: Settings, store: Store, scripted: None) -> None:
    few = settings.model_copy(update={"max_open_jobs": 1})
    request = Request(kind="profile", model="m")
    options = {"team": "default", "request": request, "created_by": "me"}
    submit(store, few, **options)
    submit(store, few, **options, inline=True)
    with pytest.raises(TooManyRequests):
        submit(store, few, **options)


def _nested(depth: int, start: str = "[", end: str = "]") -> str:
    return start * depth + end * depth


@pytest.mark.parametrize(
    "body",
    [
        _nested(MAX_JSON_DEPTH + 1),
        _nested(900),
        _nested(200_000),
        "[" * 200_000,
        '{"model":' * 5000,
        '{"kind": "profile", "model": ' + _nested(1000) + "}",
        '{"a":' * 1000 + "1" + "}" * 1000,
    ],
    ids=lambda body: body[:12],
)
def test_a_body_that_is_nested_too_deeply_is_refused(client: TestClient, body: str) -> None:
    answer = client.post("/v1/jobs", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert str(MAX_JSON_DEPTH) in answer.json()["detail"]
    chunked = (body[start : start + 777].encode() for start in range(0, len(body), 777))
    answer = client.post("/v1/jobs", content=chunked, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_depth_that_is_allowed_is_judged_by_its_fields(client: TestClient) -> None:
    body = {"kind": "profile", "model": json.loads(_nested(MAX_JSON_DEPTH - 1))}
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "model"


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("7", 0),
        ("", 0),
        ("[]", 1),
        ('{"a": [1, {"b": []}]}', 4),
        ("[[], [], [[]]]", 3),
        ('["[[[[", "]]]]"]', 1),
        (r'["\"[[[", "\\"]', 1),
        (r'{"a\\": "[", "b": [[1]]}', 3),
        ('["ends never [[[', 1),
        ('["ends never [[[\\', 1),
    ],
)
def test_depth_counts_brackets_outside_texts(text: str, depth: int) -> None:
    assert json_depth(text.encode()) == depth
