"""Every route of the served application, walked without a token, with another team's, and with one that only reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.jobs.executor import Executor
from allocator.jobs.submit import submit
from allocator.planning import plan_from_profile
from allocator.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support.profiles import measured_profile
from tests.support.teams import bearer, token

MARK = "red-secret"
"""Stands in everything of team red's that has room for a text."""
OWN_LISTS = {
    "/v1/jobs",
    "/v1/profiles",
    "/v1/plans",
    "/v1/teams",
    "/v1/tokens",
    "/v1/shares",
    "/v1/whoami",
    "/v1/version",
}
"""What answers 200 to every team, with what is its own."""


@pytest.fixture
def client(settings: Settings, store: Store, scripted: None) -> Iterator[TestClient]:
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as result:
        yield result


@pytest.fixture
def ids(settings: Settings, store: Store, scripted: None) -> dict[str, str]:
    """What the parameters of the paths may be: the names of red's things."""
    token(store, "red", MARK, "admin")
    store.teams.create("green", actor="op")
    profile = {**measured_profile(reference=f"local:{MARK}"), "key": "f" * 64}
    store.profiles.put("red", profile["key"], profile)
    plan = plan_from_profile(profile, ["block_params=0.8"], created_by=MARK)
    store.plans.put("red", plan["digest"], plan, created_by=MARK)
    request = {"model": f"local:{MARK}", "budgets": [], "script": {"prepare": {"artifact": True}}}
    job = submit(store, settings, team="red", kind="profile", request=request, created_by=MARK)
    executor = Executor(store, settings)
    while store.jobs.get("red", job).finished_at is None:
        stage = store.jobs.get("red", job).stage
        assert stage is not None
        for item in store.items.of_stage(job, stage):
            executor.execute(item.id)
    share, _ = store.shares.add("red", "plan", plan["digest"], with_team="green", by=MARK)
    return {
        "job_id": job,
        "name": store.artifacts.list("red", job)[0]["name"],
        "key": profile["key"],
        "digest": plan["digest"],
        "a": plan["digest"],
        "b": plan["digest"],
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
            answer = client.request(method, address)
            named = "{" in path
            if not named and method == "GET":
                expected = {200} if path in OWN_LISTS else {200, 403}
            elif not named:
                expected = {403, 422}
            else:
                expected = {403, 404, 422}
            assert answer.status_code in expected, (method, path, answer.status_code)
            if answer.status_code == 422:
                assert {error["field"] for error in answer.json()["errors"]} <= _body_fields(
                    client, method, path
                )
            for piece in (MARK, '"layers"', ids["token_id"], ids["share_id"]):
                shown = answer.text.replace(answer.request.url.path, "")
                assert piece not in shown or piece in address, (method, path)
    assert store.jobs.get("red", ids["job_id"]).state == "succeeded"
    assert store.teams.role("red", MARK) == "admin"
    assert store.tokens.find("red").items[0].revoked_at is None
    assert store.shares.find("red").items


def _body_fields(client: TestClient, method: str, path: str) -> set[str]:
    """The fields of an operation's body: a 422 that complains of anything else has looked at the object."""
    document = client.get("/openapi.json").json()
    body = document["paths"][path][method.lower()].get("requestBody")
    if body is None:
        return {"metric"}  # the one query parameter that has no default
    (content,) = body["content"].values()
    name = content["schema"].get("$ref", "").rpartition("/")[2]
    return {"body", "file", *(document["components"]["schemas"][name]["properties"] if name else ())}


def test_a_token_that_only_reads_changes_nothing(
    client: TestClient, store: Store, ids: dict[str, str]
) -> None:
    client.headers.update(bearer(token(store, "red", "rita", "read")))
    for method, path in _routes(client):
        if method == "GET":
            continue
        answer = client.request(method, _address(path, ids))
        assert answer.status_code == 403, (method, path, answer.text)
        problem = answer.json()
        assert problem["code"] == "forbidden"
        assert problem["needed_scope"] in ("submit", "admin")
        assert problem["needed_scope"] in problem["detail"]
    assert store.tokens.find("red", name=MARK).items[0].revoked_at is None


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Streams ask at every look whether their caller is still one."""
    return lambda: monkeypatch.setattr("api.routes.jobs._ASK_AGAIN_S", -1.0)


def test_a_stream_ends_with_its_token(
    client: TestClient, store: Store, settings: Settings, impatient: Callable[[], None]
) -> None:
    impatient()
    request = {"model": "local:m", "script": {"prepare": {"items": 1}}}
    job = submit(store, settings, team="red", kind="profile", request=request, created_by="ada")
    secret = token(store, "red")
    with client.stream("GET", f"/v1/jobs/{job}/events/stream", headers=bearer(secret)) as stream:
        store.tokens.revoke("red", store.tokens.find("red").items[0].id, actor="ada")
        for _line in stream.iter_lines():
            pass
    assert store.jobs.get("red", job).state == "queued"
