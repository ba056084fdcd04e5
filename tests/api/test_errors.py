"""Bad requests: problem+json that names the field and the way out, and nothing stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store
from api.app import create_app

GOOD = {"kind": "compress", "model": "local:tiny", "budgets": ["block_params=0.8"]}
HASH = "0123456789abcdef0123456789abcdef01234567"

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"kind": "melt"}, "kind", "compress"),
    ({"kind": None}, "kind", "compress"),
    ({"budgets": ["params=0"]}, "budgets[0]", "(0, 1]"),
    ({"budgets": ["params=0.5", "params=1.5"]}, "budgets[1]", "(0, 1]"),
    ({"budgets": ["params=abc"]}, "budgets[0]", "params=0.8"),
    ({"budgets": ["speed=0.5"]}, "budgets[0]", "block_params"),
    ({"budgets": []}, "budget", "block_params=0.8"),
    ({"budgets": "params=0.5"}, "budgets", "list"),
    ({"budgets": [0.5]}, "budgets[0]", "string"),
    ({"budgets": ["params=0.5"] * 33}, "budgets", "32"),
    ({"model": "local:absent"}, "model", "local:tiny"),
    ({"model": "local:../tiny"}, "model", "local:<name>"),
    ({"model": "local:.."}, "model", "local:<name>"),
    ({"model": "/etc"}, "model", "local:<name>"),
    ({"model": "path:/etc"}, "model", "local:<name>"),
    ({"model": "file:///etc"}, "model", "local:<name>"),
    ({"model": "hf:owner/name@main"}, "model", "40 hexadecimal"),
    ({"model": f"hf:owner/../name@{HASH}"}, "model", "40 hexadecimal"),
    ({"model": f"hf:owner/name@{HASH.upper()}"}, "model", "40 hexadecimal"),
    ({"model": "local:tiny\n"}, "model", "local:<name>"),
    ({"model": f"hf:owner/name@{HASH}"}, "calibration", "text:<name>"),
    ({"calibration": "/etc/passwd"}, "calibration", "text:<name>"),
    ({"calibration": "text:../x"}, "calibration", "text:<name>"),
    ({"calibration": "hf:owner/name:config:split"}, "calibration", "text:<name>"),
    ({"evaluation": "wikitext2"}, "evaluation", "text:<name>"),
    ({"evaluation": "text:absent.txt"}, "evaluation", "one of: text:known.txt"),
    ({"solver": "a4"}, "solver", "a3"),
    ({"allocation": "guess"}, "allocation", "ilp"),
    ({"export": []}, "export", "1 item"),
    ({"export": ["onnx"]}, "export[0]", "compact"),
    ({"effort": "heroic"}, "effort", "standard"),
    ({"heal": -1}, "heal", "0"),
    ({"heal": 100_001}, "heal", "100000"),
    ({"heal": "60"}, "heal", "integer"),
    ({"heal": 0.5}, "heal", "integer"),
    ({"samples": 15}, "samples", "16"),
    ({"samples": 1_000_001}, "samples", "1000000"),
    ({"samples": "128"}, "samples", "integer"),
    ({"sequence_length": 15}, "sequence_length", "16"),
    ({"sequence_length": 2**20 + 1}, "sequence_length", "1048576"),
    ({"sequence_length": 64.5}, "sequence_length", "integer"),
    ({"evaluation_length": 0}, "evaluation_length", "16"),
    ({"kind": "profile", "budgets": [], "evaluation_length": 64}, "evaluation_length", "compress"),
    ({"kind": "transfer", "budgets": [], "samples": 64}, "samples", "profile or plan or compress"),
    ({"kind": "transfer", "budgets": [], "sequence_length": 64}, "sequence_length", "profile or plan"),
    ({"budgts": ["params=0.5"]}, "budgts", "spelling"),
]


@pytest.fixture
def known_text(settings: Settings) -> None:
    settings.text_roots[0].mkdir()
    (settings.text_roots[0] / "known.txt").write_text("text")


@pytest.mark.parametrize(("change", "field", "way_out"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_request_is_refused_by_name(
    client: TestClient,
    store: Store,
    settings: Settings,
    tiny_model: str,
    known_text: None,
    change: dict[str, Any],
    field: str,
    way_out: str,
) -> None:
    answer = client.post("/v1/jobs", json={**GOOD, **change})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) >= {"type", "title", "status", "detail", "instance", "errors", "request_id"}
    assert (problem["status"], problem["instance"]) == (422, "/v1/jobs")
    (error,) = problem["errors"]
    assert error["field"] == field
    assert way_out in error["allowed"]
    assert str(settings.home) not in answer.text
    assert str(settings.model_roots[0]) not in answer.text
    assert store.jobs.find("default").items == []


def test_missing_fields_are_all_named(client: TestClient) -> None:
    problem = client.post("/v1/jobs", json={}).json()
    assert {error["field"] for error in problem["errors"]} == {"kind", "model"}


@pytest.mark.parametrize(
    ("content", "status"), [(b"", 422), (b'{"kind":', 422), (b"[]", 422), (b"\xff\xfe", 422), (b"7", 422)]
)
def test_a_body_that_is_no_object_is_refused(client: TestClient, content: bytes, status: int) -> None:
    answer = client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, status)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(client: TestClient, settings: Settings, chunked: bool) -> None:
    size = settings.max_body_bytes + 1
    content: Any = (b" " * 4096 for _ in range(size // 4096 + 1)) if chunked else b" " * size
    answer = client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert str(settings.max_body_bytes) in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs/none", 404),
        ("POST", "/v1/jobs/none/cancel", 404),
        ("GET", "/v1/jobs/none/events", 404),
        ("GET", "/v1/jobs/none/artifacts", 404),
        ("GET", "/v1/jobs/none/artifacts/x", 404),
        ("GET", "/v1/profiles/none", 404),
        ("GET", "/v1/profiles/none/curves", 404),
        ("GET", "/v1/plans/none", 404),
        ("GET", "/v1/plans/none/diff/none", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/jobs", 405),
        ("GET", "/v1/jobs?state=sleeping", 422),
        ("GET", "/v1/jobs?limit=0", 422),
        ("GET", "/v1/jobs?limit=ten", 422),
        ("GET", "/v1/jobs?cursor=made-up", 422),
        ("GET", "/v1/plans?cursor=made-up", 422),
        ("GET", "/v1/profiles?cursor=made-up", 422),
        ("GET", "/v1/jobs/none/events?after=-1", 422),
    ],
)
def test_every_error_is_a_problem(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"] == f"urn:rankalloc:problem:{problem['code']}"


def test_a_bug_shows_its_request_and_nothing_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise ValueError("/secret/path")

    monkeypatch.setattr(store.jobs, "find", broken)
    answer = client.get("/v1/jobs", headers={"X-Request-ID": "trace-7"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "trace-7" in answer.json()["detail"]
    assert "/secret/path" not in answer.text
    assert "Traceback" not in answer.text


def test_a_store_that_is_down_is_a_503_that_says_when_to_come_back(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    app = create_app(settings, store=store)
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    store.close()
    store.database.url = f"sqlite:///{tmp_path}/absent/folder.db"
    for path in ("/v1/jobs", "/readyz", "/metrics"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        assert str(tmp_path) not in answer.text
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_a_foreign_host_name_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]:8000", "LOCALHOST"])
def test_an_own_host_name_is_served(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_another_sites_page_can_change_nothing(client: TestClient) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 404), ("none", 404)):
        answer = client.post("/v1/jobs/none/cancel", headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
