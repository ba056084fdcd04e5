"""Every command of the compose file, started for real against PostgreSQL and Redis: migrate first, a job, and a quiet end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator

from tests.deployment.stack import COMPOSE, SERVICES, Stack, seconds, stack
from tests.support.processes import group_is_empty, wait_until


def test_the_file_is_what_the_compose_specification_allows() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    anchors = {key: value for key, value in COMPOSE.items() if not key.startswith("x-")}
    assert not list(Draft202012Validator(schema).iter_errors(anchors))


def test_the_schema_refuses_a_misspelt_key() -> None:
    wrong: dict[str, Any] = {"services": {"api": {**SERVICES["api"], "helthcheck": {}}}}
    schema = get_builtin_schema("vendor.compose-spec")
    assert list(Draft202012Validator(schema).iter_errors(wrong))


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("2m", 120), ("1m30s", 90)])
def test_durations_are_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.fixture
def started(tmp_path: Path, postgres_server: str) -> Iterator[Stack]:
    with stack(tmp_path, postgres_server) as result:
        yield result


def _refused(started: Stack, name: str) -> str:
    """What a service says that ends by itself."""
    process = started.start(name)
    assert process.wait(120) != 0
    del started.processes[name]
    return started.log(name)


def test_the_whole_stack_starts_works_and_ends(started: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    started.start("redis")
    started.wait_until_healthy("redis")
    for name in ("api", "worker"):
        assert "rankalloc db upgrade" in _refused(started, name), (
            "nothing starts before the schema is current"
        )
    assert started.start("migrate").wait(120) == 0, started.log("migrate")
    del started.processes["migrate"]
    assert "torch finds no CUDA device" in _refused(started, "worker-gpu")
    for name in ("api", "worker"):
        started.start(name)
    for name in ("api", "worker"):
        started.wait_until_healthy(name)
    assert httpx.get(started.url("/readyz")).json()["status"] == "ok"

    body = {"kind": "transfer", "model": "local:pylm-gpt2", "profile": "none"}
    assert httpx.post(started.url("/v1/jobs"), json=body).status_code == 404
    body = {"kind": "plan", "model": "local:pylm-gpt2", "budgets": ["params=0.0001"]}
    job = started.url(httpx.post(started.url("/v1/jobs"), json=body).headers["location"])
    wait_until(lambda: httpx.get(job).json()["finished_at"], "a worker takes the job", patience_s=180)
    ended = httpx.get(job).json()
    assert (ended["state"], ended["error"]["type"]) == ("failed", "budget_infeasible"), started.log("worker")
    assert ended["weights_sha256"] or ended["error"]["achievable"], "the worker has read the model"

    groups = {name: process.pid for name, process in started.processes.items()}
    # Stores last, as compose does it by `depends_on`.
    for name in ("worker", "api", "redis"):
        try:
            started.stop(name)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{name} did not end within its stop_grace_period:\n{started.log(name)}")
        wait_until(lambda group=groups[name]: group_is_empty(group), f"nobody of {name} is left")
    secrets = [path.read_text() for path in (started.folder / "secrets").iterdir()]
    for name in groups:
        assert not any(secret in started.log(name) for secret in secrets), f"{name} logs a secret"
