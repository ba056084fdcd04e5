"""Health, metrics, the OpenAPI document, and what the API must not import."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from allocator.base.logs import WithContext
from allocator.base.settings import Settings
from allocator.store import Store
from allocator.store.states import STATES
from api.app import create_app
from tests.support.processes import ROOT
from tests.support.profiles import small_profile


def test_health_readiness_version(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ok"
    assert client.get("/v1/version").json()["schema"]


def test_readiness_is_about_progress(
    settings: Settings, store: Store, scripted: None, tiny_model: str
) -> None:
    """A process that lives but goes round no more is not ready; work that nobody takes is told, and no fault of the API."""
    looked = [0.0]
    impatient = settings.model_copy(update={"stalled_s": 1e-6})
    app = create_app(impatient, store=store, dispatched_s_ago=lambda: looked[0])
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get("/readyz?work=true").json()["checks"] == dict.fromkeys(
            ("database", "dispatcher", "work"), "ok"
        )
        client.post("/v1/jobs", json={"kind": "profile", "model": tiny_model})
        assert "1 parts wait" in client.get("/readyz").json()["checks"]["work"]
        assert client.get("/readyz").status_code == 200
        assert client.get("/readyz?work=true").status_code == 503
        looked[0] = 3600.0
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert "3600 s ago" in answer.json()["checks"]["dispatcher"]


def test_metrics_count_jobs_requests_and_solves(client: TestClient, store: Store, tiny_model: str) -> None:
    client.post("/v1/jobs", json={"kind": "profile", "model": tiny_model})
    client.get("/v1/jobs/nothing")
    client.get("/no/such/<script>")
    store.profiles.put("default", small_profile())
    client.post("/v1/plans", json={"profile_key": "small", "budgets": ["block_params=0.8"]})
    values = {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    assert values["rankalloc_jobs"] == {**dict.fromkeys(((s,) for s in STATES), 0), ("queued",): 1}
    assert values["rankalloc_messages_due"] == {(): 1}
    assert values["rankalloc_queue_depth"] == {(): 1}
    assert values["rankalloc_queue_oldest_wait_seconds"][()] >= 0
    assert values["rankalloc_leases_lost_last_day"] == {(): 0}
    requests = values["rankalloc_http_requests"]
    assert requests[("POST", "/v1/jobs", "202")] == 1
    # Routes, not paths: what callers write makes no series of its own.
    assert requests[("GET", "/v1/jobs/{job_id}", "404")] == 1
    assert requests[("GET", "unmatched", "404")] == 1
    assert values["rankalloc_solve_seconds"][()] > 0


def test_requests_are_logged_with_their_id_and_without_what_they_carry(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(WithContext())
    with caplog.at_level(logging.INFO, logger="api.requests"):
        headers = {"X-Request-ID": "mine-1", "Authorization": "Bearer ra_secret"}
        client.get("/v1/jobs?model=secret-model", headers=headers)
    (record,) = caplog.records
    assert record.message.startswith("GET /v1/jobs 200 in ")
    assert record.context == {"request": "mine-1"}
    assert "secret" not in caplog.text


def test_openapi_describes_every_route_and_its_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/events/stream",
        "/v1/jobs/{job_id}/artifacts",
        "/v1/jobs/{job_id}/artifacts/{name}",
        "/v1/profiles",
        "/v1/profiles/{key}",
        "/v1/profiles/{key}/curves",
        "/v1/profiles/{key}/sensitivity",
        "/v1/profiles/{key}/export",
        "/v1/profiles/{key}/heatmap.svg",
        "/v1/profiles/{key}/curves.svg",
        "/v1/plans",
        "/v1/plans/{digest}",
        "/v1/plans/{a}/diff/{b}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/version",
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], f"{method} {path} is not described"
            assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_the_api_does_not_import_torch() -> None:
    code = (
        "import sys, api.app, api.serve, api.routes.jobs, allocator.jobs.machine.worker, allocator.jobs.machine.tasks\n"
        "import allocator.stages.registry, allocator.plan.planning\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
