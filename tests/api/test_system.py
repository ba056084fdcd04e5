"""Health, metrics, the OpenAPI document, and what the API must not import."""

from __future__ import annotations

import subprocess
import sys

from fastapi.testclient import TestClient

from tests.support.processes import ROOT


def test_health_readiness_version(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    assert client.get("/v1/version").json()["schema"]


def test_metrics_count_jobs(client: TestClient, tiny_model: str) -> None:
    client.post("/v1/jobs", json={"kind": "profile", "model": tiny_model})
    lines = client.get("/metrics").text.splitlines()
    assert 'rankalloc_jobs{state="queued"} 1' in lines
    assert 'rankalloc_jobs{state="crashed"} 0' in lines
    assert "rankalloc_outbox_messages 1" in lines
    assert all(line.startswith("#") or len(line.split()) == 2 for line in lines)


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
        "import sys, api.app, api.serve, api.routes.jobs, allocator.jobs.worker, allocator.jobs.tasks\n"
        "import allocator.jobs.stages, allocator.planning\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
