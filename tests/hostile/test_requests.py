"""Hostile requests: each is a problem with a 4xx, small, without an escape sequence, and stores nothing."""

from __future__ import annotations

import base64
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD: dict[str, Any] = {"kind": "compress", "model": "local:tiny", "budgets": ["block_params=0.8"]}
ANSWER_BYTES = 8_000


def job(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def raw(value: str) -> bytes:
    """A job whose ``heal`` is this JSON."""
    return job().rstrip(b"}") + f', "heal": {value}}}'.encode()


BODIES: dict[str, bytes] = {
    "lone surrogate in a model": job(model="\ud800"),
    "lone surrogate in a budget": job(budgets=["\ud800"]),
    "lone surrogate in a constraint": job(constraints={"pin": ["\ud800"]}),
    "lone surrogate as a field": job(**{"\ud800": 1}),
    "NUL in a constraint": job(constraints={"pin": ["\0"]}),
    "NUL in a plan's name": job(kind="plan", around="a\0"),
    "NUL in a profile's name": job(kind="transfer", profile="a\0"),
    "escape in a profile's name": job(kind="transfer", profile="\x1b[2J"),
    "newline in a text's name": job(calibration="text:known.txt\n[ERROR] forged"),
    "nested 100,000 lists": b"[" * 10**5 + b"]" * 10**5,
    "nested 50,000 objects": b'{"kind":' * 50_000 + b"1" + b"}" * 50_000,
    "nested inside a field": b'{"kind": "plan", "model": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "400 digits": raw("9" * 400),
    "5000 digits": raw("9" * 5000),
    "1e308": raw("1e308"),
    "1e999": raw("1e999"),
    "NaN": raw("NaN"),
    "-Infinity": raw("-Infinity"),
    "budget of 1e308": job(budgets=["params=1e308"]),
    "budget of 1e999": job(budgets=["params=1e999"]),
    "budget of 150 digits": job(budgets=["params=" + "9" * 150]),
    "budget of 5000 digits": job(budgets=["params=" + "9" * 5000]),
    "budget of digits that look alike": job(budgets=["params=０.８"]),
    "batch of nine digits twice": job(budgets=["memory=1GiB@batch=999999999,context=999999999"]),
    "a key twice": b'{"kind": "plan", "kind": "melt", "model": "local:tiny", "budgets": ["params=0.8"]}',
    "40,000 budgets": job(budgets=["params=0.8"] * 40_000),
    "50,000 fields": job(**{f"k{n}": 1 for n in range(50_000)}),
    "a field of 900,000 letters": job(**{"k" * 900_000: 1}),
    "2000 constraints": job(constraints={"pin": ["0.mlp=dense"] * 2000}),
    "gzip": b"\x1f\x8b" + b"\0" * 100,
}


def refused(answer: Any, store: Store) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < ANSWER_BYTES
    problem: dict[str, Any] = answer.json()
    assert "\x1b" not in json.dumps(problem, ensure_ascii=False)
    assert store.jobs.find("default").items == []
    return problem


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused(any_client: TestClient, any_store: Store, name: str) -> None:
    answer = any_client.post("/v1/jobs", content=BODIES[name], headers={"Content-Type": "application/json"})
    problem = refused(answer, any_store)
    if answer.status_code == 422:
        assert problem["errors"][0]["field"]
        assert problem["errors"][0]["allowed"]


REFERENCES = [
    *("..", "../tiny", "tiny/../tiny", "./tiny", "tiny/", "/tiny", "//tiny", "tiny\\..\\tiny", "~", "~root"),
    *("%2e%2e", "..%2ftiny", "%252e%252e", "tiny%00", "tiny\0", "tiny\n", "tiny\r\nX-Evil: 1", "\x1b[2Jtiny"),
    *(
        "．．",
        "‥",
        "tіny",
        "ｔｉｎｙ",
        "tiny\u202e",
        "tiny\u200b",
        " tiny",
        "tiny ",
        "tiny#",
        "tiny?x",
        "a" * 97,
    ),
    *("file:///etc", "http://127.0.0.1/x", "proc/self/root", "$HOME", "`id`", "tiny;id", "*", "con:", "-rf"),
]


def test_a_model_and_a_text_are_names_and_nothing_else(any_client: TestClient, any_store: Store) -> None:
    for name in REFERENCES:
        for model in (
            f"local:{name}",
            f"hf:{name}@{COMMIT}",
            f"hf:{name}/{name}@{COMMIT}",
            f"path:{name}",
            name,
        ):
            body = {**GOOD, "model": model, "calibration": "text:known.txt"}
            problem = refused(any_client.post("/v1/jobs", json=body), any_store)
            assert problem["errors"][0]["field"] == "model", model
        for text in (f"text:{name}", f"path:{name}", name):
            problem = refused(any_client.post("/v1/jobs", json={**GOOD, "evaluation": text}), any_store)
            assert problem["errors"][0]["field"] == "evaluation", text


def test_links_out_of_the_roots_are_not_there(
    any_client: TestClient, any_store: Store, any_settings: Settings, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    models, texts = any_settings.model_roots[0], any_settings.text_roots[0]
    for name, target in (
        ("folder", outside),
        ("up", tmp_path),
        ("loop", models / "loop"),
        ("root", Path("/")),
    ):
        (models / name).symlink_to(target)
        (texts / name).symlink_to(texts / "loop" if name == "loop" else outside / "config.json")
        refused(any_client.post("/v1/jobs", json={**GOOD, "model": f"local:{name}"}), any_store)
        refused(any_client.post("/v1/jobs", json={**GOOD, "calibration": f"text:{name}"}), any_store)
    own = models / "tiny" / "calibration.txt"
    own.unlink()
    own.symlink_to("/etc/hostname")
    refused(any_client.post("/v1/jobs", json=GOOD), any_store)


def test_a_refusal_names_some_of_many_models(
    any_client: TestClient, any_store: Store, any_settings: Settings
) -> None:
    for number in range(300):
        folder = any_settings.model_roots[0] / f"a-model-with-a-name-of-its-own-{number:03d}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    problem = refused(any_client.post("/v1/jobs", json={**GOOD, "model": "local:absent"}), any_store)
    assert "more" in problem["errors"][0]["allowed"]


def cursor(position: str) -> str:
    return base64.urlsafe_b64encode(f"v1:{position}".encode()).decode().rstrip("=")


ADDRESSES = [
    *(
        "/v1/jobs/%00",
        "/v1/profiles/%00",
        "/v1/plans/a%00b",
        "/v1/jobs/x/artifacts/%00",
        "/v1/jobs?model=%00",
    ),
    *("/v1/profiles?model=a%00", "/v1/plans?profile_key=%00", f"/v1/plans?cursor={cursor('9' * 100)}"),
    *(
        f"/v1/profiles?cursor={cursor('9' * 19)}",
        "/v1/jobs?cursor=%f0%9f%92%a9",
        f"/v1/jobs?cursor={'A' * 201}",
    ),
    *(
        "/v1/jobs/%ed%a0%80",
        "/v1/jobs/%ff",
        "/v1/jobs/..%2f..%2fetc",
        f"/v1/jobs/{'x' * 5000}",
        "/v1/jobs/%252e",
    ),
    *(
        "/v1/jobs/x/artifacts/..%2f..%2fetc%2fpasswd",
        "/v1/jobs/x/artifacts/%2fetc%2fpasswd",
        "/..%2f..%2fetc",
    ),
    *("/v1/plans/%0d%0aX-Evil:%201", f"/v1/jobs?limit={'9' * 5000}", f"/v1/jobs/x/events?after={'9' * 400}"),
    *("/v1/profiles/small/sensitivity?metric=%00", "/v1/profiles/small/sensitivity?remove=nan"),
    *(
        "/v1/profiles/small/sensitivity?remove=1e999",
        f"/v1/profiles/small/frontier?metric=params{'&budget=x' * 17}",
    ),
    *(
        "/v1/profiles/small/frontier?metric=params&budget=%00",
        "/v1/profiles/small/curves?layer=99999999999999999",
    ),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address[:60])
def test_a_hostile_address_is_refused(any_client: TestClient, any_store: Store, address: str) -> None:
    answer = any_client.get(address)
    refused(answer, any_store)
    assert "x-evil" not in answer.headers


def test_a_rank_is_digits(any_client: TestClient, any_store: Store) -> None:
    """``Fraction`` would work on the first two until memory is gone."""
    for value in ("1e9999999", "1e999999999", "0x10", "1_0", "1/3", "+5", "٣", "1e-1", "nan", "inf"):
        for kind, text in (("min_rank", f"mlp={value}"), ("pin", f"*.mlp={value}")):
            body = {"profile_key": "small", "budgets": ["params=0.9"], "constraints": {kind: [text]}}
            problem = refused(any_client.post("/v1/plans", json=body), any_store)
            assert problem["errors"][0]["field"] == kind, text


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "1048577"])
def test_a_length_beyond_the_limit_is_refused_unread(
    any_client: TestClient, any_store: Store, length: str
) -> None:
    answer = any_client.post("/v1/jobs", content=b"{}", headers={"Content-Length": length})
    assert refused(answer, any_store)["status"] == 413


@pytest.mark.parametrize("given", ["a\x1b[2J", "a\nforged: 1", "x" * 65, "é", "a b", "${jndi:ldap://x}", ""])
def test_a_request_id_that_is_none_is_replaced(any_client: TestClient, given: str) -> None:
    answer = any_client.get("/v1/jobs/none", headers={"X-Request-ID": given.encode("latin-1")})
    assert len(answer.headers["x-request-id"]) == 26
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("key", ["a\x1b[31m", "a\0", "a\nb", "a\x7f", "x" * 256])
def test_an_idempotency_key_has_no_control_characters(
    any_client: TestClient, any_store: Store, key: str
) -> None:
    answer = any_client.post("/v1/jobs", json=GOOD, headers={"Idempotency-Key": key.encode("latin-1")})
    refused(answer, any_store)


def test_an_event_number_beyond_every_event_ends_no_stream_badly(
    any_client: TestClient, any_store: Store
) -> None:
    job_id = any_client.post("/v1/jobs", json=GOOD).json()["id"]
    any_client.post(f"/v1/jobs/{job_id}/cancel")
    answer = any_client.get(f"/v1/jobs/{job_id}/events/stream", headers={"Last-Event-ID": "9" * 20})
    assert answer.status_code == 200
    assert "error" not in answer.text


def test_hostile_requests_leave_memory_alone(any_client: TestClient, any_store: Store) -> None:
    def all_of_them() -> None:
        for body in BODIES.values():
            any_client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    all_of_them()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        all_of_them()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
