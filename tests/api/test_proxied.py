"""What a proxy may say of the address: who is believed, and which prefixes are refused. Real proxies: tests/deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.proxies import OWN_PATHS
from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app
from tests.support import command
from tests.support.teams import token

HTML = {"Accept": "text/html"}
FROM = "X-Forwarded-Prefix"


def _asked(settings: Settings, store: Store, peer: str, path: str = "/", **headers: str) -> Any:
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", client=(peer, 5), follow_redirects=False) as client:
        return client.get(path, headers={**HTML, **{n.replace("_", "-"): v for n, v in headers.items()}})


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        (["127.0.0.1", "::1"], "127.0.0.1", True),
        (["127.0.0.1", "::1"], "::1", True),
        (["127.0.0.1", "::1"], "10.1.2.3", False),
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "127.0.0.1", False),
        (["*"], "192.0.2.7", True),
    ],
)
def test_only_trusted_proxies_are_believed(
    settings: Settings, store: Store, trusted: list[str], peer: str, believed: bool
) -> None:
    token(store, "default")
    settings = Settings(home=settings.home, trusted_proxies=trusted)
    said = {"X_Forwarded_Prefix": "/a/b", "X_Forwarded_Proto": "https", "X_Forwarded_For": "198.51.100.4"}
    answer = _asked(settings, store, peer, **said)
    assert answer.headers["location"] == ("/a/b" if believed else "") + "/login?next=%2F"
    # The proxy on its machine names the client: who that is, is not who is believed.
    page = _asked(settings, store, peer, "/login", **said)
    assert ('action="/a/b/login"' in page.text) == believed
    evil = _asked(settings, store, peer, **{**said, "X_Forwarded_Prefix": "//evil.example"})
    assert evil.status_code == (400 if believed else 303)


@pytest.mark.parametrize(("peer", "secure"), [("127.0.0.1", True), ("10.1.2.3", False)])
def test_the_cookie_of_who_came_by_tls_is_for_tls_alone(
    settings: Settings, store: Store, peer: str, secure: bool
) -> None:
    secret = token(store, "default")
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", client=(peer, 5), follow_redirects=False) as client:
        headers = {**HTML, "X-Forwarded-Proto": "https", FROM: "/ra"}
        answer = client.post("/login", data={"token": secret}, headers=headers)
    wanted = {"HttpOnly", "SameSite=strict", *(["Path=/ra", "Secure"] if secure else ["Path=/"])}
    assert set(answer.headers["set-cookie"].split("; ")[1:]) == wanted


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "//evil.example",
            "///evil",
            "https://evil.example",
            "javascript:alert(1)",
            "evil",
            "/a//b",
            "/a/../b",
        ),
        *(
            "/\\evil",
            "/a b",
            "/a;b=c",
            "/a?b",
            "/a#b",
            "/%2f%2fevil",
            '/"onload=x',
            "/é",
            "/a, /b",
            "/" + 300 * "a",
        ),
        *(f"/{name}" for name in sorted(OWN_PATHS)),
    ],
)
def test_what_is_no_prefix_is_refused_and_repeated_nowhere_as_a_link(
    settings: Settings, store: Store, prefix: str
) -> None:
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", client=("127.0.0.1", 5)) as client:
        answer = client.get("/", headers={**HTML, FROM: prefix.encode()})
        problem = client.get("/v1/jobs", headers={FROM: prefix.encode()})
    assert (answer.status_code, problem.status_code) == (400, 400)
    assert "such as /rankalloc" in problem.json()["detail"]
    assert 'href="/static/' in answer.text
    assert 'href="//' not in answer.text


def test_two_proxies_that_both_name_a_prefix_are_refused(settings: Settings, store: Store) -> None:
    app = create_app(settings, store=store)
    with TestClient(app, "http://127.0.0.1", client=("127.0.0.1", 5)) as client:
        answer = client.get("/v1/jobs", headers=[(FROM, "/a"), (FROM, "/b")])
    assert answer.status_code == 400
    assert "'/a, /b'" in answer.json()["detail"]


def test_a_path_names_the_same_thing_with_its_prefix_and_without(settings: Settings, store: Store) -> None:
    token(store, "default")
    settings = settings.model_copy(update={"root_path": "/tools/ra"})
    app = create_app(settings, store=store)
    for peer in ("127.0.0.1", "192.0.2.7"):  # the setting needs no proxy that is believed
        with TestClient(
            app, "http://127.0.0.1", client=(peer, 5), follow_redirects=False, headers=HTML
        ) as client:
            for path in ("/tools/ra/v1/jobs", "/v1/jobs"):
                answer = client.get(path, headers={FROM: "/other"})
                goal = "/tools/ra/login?next=%2Fv1%2Fjobs"
                assert (answer.status_code, answer.headers["location"]) == (303, goal)
            for path in ("/tools/ra", "/tools/ra/", "/"):
                assert client.get(path).headers["location"] == "/tools/ra/login?next=%2F"
            assert client.get("/tools/raven").status_code == 404
            assert client.get("/plans/").headers["location"] == "http://127.0.0.1/tools/ra/plans"


def test_a_program_needs_its_token_under_the_prefix_too(settings: Settings, store: Store) -> None:
    token(store, "default")
    app = create_app(settings.model_copy(update={"root_path": "/ra"}), store=store)
    with TestClient(app, "http://127.0.0.1") as client:
        for path in ("/v1", "/v1/jobs", "/ra/v1", "/ra/v1/jobs", "/ra/v1/nothing", "/ra/ra/v1/jobs"):
            status = client.get(path).status_code
            assert status == (404 if path.startswith("/ra/ra") else 401), path


def test_the_service_s_own_paths_are_known(settings: Settings, store: Store) -> None:
    app = create_app(settings, store=store)
    routers = [route.original_router for route in app.routes if hasattr(route, "original_router")]
    paths = [app.openapi_url, *(route.path for router in routers for route in router.routes)]
    assert {path.split("/")[1] for path in paths} - {""} == set(OWN_PATHS)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROOT_PATH", "//evil.example", "'//evil.example' is not a path of letters"),
        ("ROOT_PATH", "rankalloc", "such as /rankalloc"),
        ("ROOT_PATH", "/jobs/x", "none of the service's own"),
        ("TRUSTED_PROXIES", "proxy.example", "is not an address or a network such as 127.0.0.1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.1/8", "'10.0.0.1/8' is not an address"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_works(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(f"RANKALLOC_{name}", value)
    code, printed, shown = command.run(capsys, monkeypatch, tmp_path / "home", "serve", "--port", "0")
    assert (code, printed, shown.count("\n")) == (2, "", 1)
    assert shown.startswith(f"error: RANKALLOC_{name}: ")
    assert said in shown
    assert list(tmp_path.iterdir()) == []
