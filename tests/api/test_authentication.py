"""Who is asking: headers, cookies, stores that have had tokens and stores that have not."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support.jobs import new_job
from tests.support.teams import bearer, token


def test_the_store_closes_with_its_first_token_and_never_opens_again(
    client: TestClient, store: Store
) -> None:
    assert client.get("/v1/jobs").status_code == 200
    assert client.get("/v1/jobs", headers={"Authorization": "Basic cHJveHk6cHJveHk="}).status_code == 200
    who = client.get("/v1/whoami").json()
    assert (who["team"], who["scope"], who["token_id"]) == ("default", "admin", None)
    secret = token(store, "default", "ada", "admin")
    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    store.tokens.revoke("default", store.tokens.find("default").items[0].id, actor="ada")
    assert client.get("/v1/jobs", headers=bearer(secret)).status_code == 401
    assert client.get("/v1/jobs").status_code == 401


def test_a_server_that_starts_with_dead_tokens_only_is_closed(settings: Settings, store: Store) -> None:
    secret = token(store, "default")
    store.teams.remove_member("default", "ada", actor="op")
    client = TestClient(create_app(settings, store=store), "http://127.0.0.1")
    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/v1/jobs", headers=bearer(secret)).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "bearer nonsense",
        "Basic {secret}",
        "{secret}",
        "Bearer {secret}x",
        "Bearer " + "x" * 5000,
        "Bearer ra_\udcff",
    ],
)
def test_what_is_no_token_is_refused_and_not_repeated(client: TestClient, store: Store, header: str) -> None:
    secret = token(store, "red")
    header = header.format(secret=secret)
    answer = client.get("/v1/jobs", headers={"Authorization": header.encode("utf-8", "surrogateescape")})
    assert answer.status_code == 401
    assert secret not in answer.text
    assert "nonsense" not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_scheme_is_read_in_any_case(client: TestClient, store: Store, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {token(store, 'red')}"}
    assert client.get("/v1/whoami", headers=headers).json()["team"] == "red"


def test_a_cookie_logs_in_and_the_header_wins(client: TestClient, store: Store) -> None:
    red, blue = token(store, "red"), token(store, "blue")
    cookie = {"Cookie": f"other=1; rankalloc_token={red}"}
    assert client.get("/v1/whoami", headers=cookie).json()["team"] == "red"
    assert client.get("/v1/whoami", headers={**cookie, **bearer(blue)}).json()["team"] == "blue"
    assert client.get("/v1/whoami", headers={**cookie, **bearer("wrong")}).status_code == 401
    for broken in ("rankalloc_token=", "rankalloc_token", "rankalloc_token=wrong", "=;;\x01", f"x={red}"):
        assert client.get("/v1/whoami", headers={"Cookie": broken}).status_code == 401


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ({}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1.evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://127.0.0.1"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
    ],
)
def test_a_cookie_changes_something_only_from_an_own_page(
    client: TestClient, store: Store, origin: dict[str, str], allowed: bool
) -> None:
    cookie = {"Cookie": f"rankalloc_token={token(store, 'red')}"}
    answer = client.post("/v1/jobs/none/cancel", headers={**cookie, **origin})
    assert answer.status_code == (404 if allowed else 403), answer.text
    assert client.get("/v1/jobs", headers=cookie).status_code == 200, "reading needs no more"


def test_answers_are_not_shared_between_callers(client: TestClient, store: Store) -> None:
    for headers in ({}, bearer(token(store, "red"))):
        assert client.get("/v1/jobs", headers=headers).headers["vary"] == "Authorization, Cookie"


def test_a_secret_gets_into_no_log_and_no_error(
    client: TestClient, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = token(store, "red", scope="admin")
    monkeypatch.setattr(store.jobs, "find", lambda *_args, **_options: 1 / 0)
    answers = [client.get(path, headers=bearer(secret)) for path in ("/v1/jobs", "/v1/jobs/x", "/v1/whoami")]
    made = client.post("/v1/tokens", json={"name": "ada", "scope": "read"}, headers=bearer(secret)).json()
    assert answers[0].status_code == 500
    told = caplog.text + "".join(answer.text + str(answer.headers) for answer in answers)
    told += repr(store.audit.find("red").items) + client.get("/v1/tokens", headers=bearer(secret)).text
    assert "failed" in caplog.text
    for each in (secret, made["token"]):
        assert each not in told
        assert each[9:] not in told


def test_a_database_that_is_down_is_a_503_for_callers_too(
    client: TestClient, store: Store, settings: Settings
) -> None:
    secret = token(store, "red")
    store.close()
    store.database.url = f"sqlite:///{settings.home}/absent/folder.db"
    answer = client.get("/v1/jobs", headers=bearer(secret))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert answer.headers["retry-after"]


def test_a_stream_ends_with_its_token(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr("api.routes.jobs._ASK_AGAIN_S", -1.0)
    request = {"model": "local:m", "script": {"prepare": {"items": 1}}}
    job = new_job(store, settings, "profile", request, team="red", created_by="ada")
    secret = token(store, "red")
    with client.stream("GET", f"/v1/jobs/{job}/events/stream", headers=bearer(secret)) as stream:
        store.tokens.revoke("red", store.tokens.find("red").items[0].id, actor="ada")
        for _line in stream.iter_lines():
            pass
    assert store.jobs.get("red", job).state == "queued"
