"""Applying, transferring, doing again, letting go: what jobs share, over REST."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.plan.documents.plan import Plan
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from tests.support.jobs import new_job, run_to_end
from tests.support.profiles import SMALL, measured_profile

APPLY = {"kind": "compress", "model": "local:tiny", "plan": "alias:prod"}


@pytest.fixture
def plan(store: Store) -> Plan:
    """A stored plan that the alias `prod` points at."""
    profile = measured_profile()
    store.profiles.put("default", profile)
    found = plan_from_profile(profile, ["block_params=0.7", "kv_bytes_per_token=0.8"])
    store.plans.put("default", found, created_by="me")
    store.aliases.set("default", "prod", found.digest, by="me", expected=None)
    return found


def _known(store: Store, **changed: Any) -> None:
    geometry = SMALL.replaced(**changed).document
    store.models.put("default", "f" * 64, "local:tiny", {"geometry": geometry})


def _ended(store: Store, settings: Settings, script: dict[str, Any], state: str) -> str:
    request = {"model": "local:tiny", "budgets": [], "script": script}
    job_id = new_job(store, settings, "profile", request)
    assert run_to_end(store, Executor(store, settings), job_id) == state
    return job_id


FAILS = {"profile": {"error": {"kind": "invalid", "item": "profile-0", "times": 10**6}}}


def test_a_job_keeps_the_plan_that_an_alias_meant(
    client: TestClient, store: Store, plan: Plan, tiny_model: str
) -> None:
    headers = {"Idempotency-Key": "mine"}
    answer = client.post("/v1/jobs", json=APPLY, headers=headers)
    assert answer.status_code == 202
    job = answer.json()
    assert job["request"]["plan"] == plan.digest
    assert job["budgets"] == ["block_params=0.7", "kv_bytes_per_token=0.8"]
    other = plan_from_profile(measured_profile(), ["block_params=0.9"])
    store.plans.put("default", other, created_by="me")
    store.aliases.set("default", "prod", other.digest, by="me", expected="exists")
    again = client.post("/v1/jobs", json=APPLY, headers=headers)
    assert again.json()["id"] == job["id"], "the same words under the same key, wherever the alias points now"
    store.aliases.delete("default", "prod", by="me", expected="exists")
    assert client.post("/v1/jobs", json=APPLY, headers=headers).json()["id"] == job["id"]
    assert client.post("/v1/jobs", json=APPLY).status_code == 404
    assert client.post("/v1/jobs", json={**APPLY, "plan": plan.digest[:10]}).status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budgets": ["params=0.5"]}, "budgets"),
        ({"solver": "a3"}, "solver"),
        ({"allocation": "ilp"}, "allocation"),
        ({"refine": 3}, "refine"),
        ({"constraints": {"pin": ["0.mlp=dense"]}}, "constraints"),
        ({"kind": "plan", "budgets": ["params=0.5"]}, "plan"),
    ],
)
def test_what_the_plan_brings_cannot_be_asked_for_beside_it(
    client: TestClient,
    store: Store,
    plan: Plan,
    tiny_model: str,
    change: dict[str, Any],
    field: str,
) -> None:
    answer = client.post("/v1/jobs", json={**APPLY, **change})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert store.jobs.find("default").items == []


def test_another_geometry_is_refused_before_any_work_where_it_is_known(
    client: TestClient, store: Store, plan: Plan, tiny_model: str
) -> None:
    url, body = "/v1/plans/alias:prod/transfer", {"model": "local:tiny"}
    _known(store, layers=3)
    for answer in (client.post(url, json=body), client.post("/v1/jobs", json=APPLY)):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "layers 3 instead of 2" in answer.json()["detail"]
    assert store.jobs.find("default").items == []
    _known(store)
    job = client.post(url, json=body)
    assert job.status_code == 202
    assert job.headers["location"] == f"/v1/jobs/{job.json()['id']}"
    asked = {"model": "local:tiny", "profile": plan.profile_key, "plan": plan.digest}
    assert job.json()["kind"] == "transfer"
    assert asked.items() <= job.json()["request"].items()
    assert client.post(url, json={"model": "local:absent"}).status_code == 422
    assert client.post("/v1/plans/alias:none/transfer", json=body).status_code == 404


def test_a_job_that_did_not_succeed_is_done_again(
    client: TestClient, store: Store, settings: Settings, tiny_model: str
) -> None:
    failed = _ended(store, settings, FAILS, "failed")
    shown = client.get(f"/v1/jobs/{failed}").json()
    assert shown["links"]["retry"] == f"/v1/jobs/{failed}/retry"
    headers = {"Idempotency-Key": "again"}
    answer = client.post(shown["links"]["retry"], headers=headers)
    assert answer.status_code == 202
    job = answer.json()
    assert job["id"] != failed
    assert (job["retry_of"], job["links"]["retry_of"]) == (failed, f"/v1/jobs/{failed}")
    assert job["request"] == shown["request"]
    assert client.post(shown["links"]["retry"], headers=headers).json()["id"] == job["id"]
    assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 409, "it is not over"
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.post(f"/v1/jobs/{job['id']}/retry").json()["retry_of"] == job["id"]
    succeeded = _ended(store, settings, {}, "succeeded")
    assert client.post(f"/v1/jobs/{succeeded}/retry").status_code == 409
    assert "retry" not in client.get(f"/v1/jobs/{succeeded}").json()["links"]
    assert client.post("/v1/jobs/none/retry").status_code == 404


def test_a_command_s_own_job_is_not_done_again_by_the_service(
    client: TestClient, store: Store, settings: Settings
) -> None:
    request = {"model": "path:/somewhere", "budgets": []}
    job_id = new_job(store, settings, "profile", request, inline=True)
    client.post(f"/v1/jobs/{job_id}/cancel")
    answer = client.post(f"/v1/jobs/{job_id}/retry")
    assert (answer.status_code, "run that command again" in answer.json()["detail"]) == (409, True)


def test_files_are_removed_and_their_rows_say_so(
    client: TestClient, store: Store, settings: Settings, tiny_model: str
) -> None:
    job_id = _ended(store, settings, {"prepare": {"artifact": True}}, "succeeded")
    url = f"/v1/jobs/{job_id}/artifacts"
    kept = _ended(store, settings, {"prepare": {"artifact": True}}, "succeeded")
    before = client.get(url).json()["items"]
    assert [each["removed_at"] for each in before] == [None, None]
    gone = client.delete(url)
    assert gone.status_code == 200
    assert all(each["removed_at"] for each in gone.json()["items"])
    assert [each["sha256"] for each in gone.json()["items"]] == [each["sha256"] for each in before]
    assert not (settings.artifacts_dir / job_id).exists()
    assert client.delete(url).json() == gone.json(), "nothing more happens"
    assert client.get(before[0]["href"]).status_code == 404
    events = [each["type"] for each in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]
    assert events.count("artifacts.removed") == 1
    assert (settings.artifacts_dir / kept / "report.json").is_file()
    assert client.get(f"/v1/jobs/{kept}/artifacts").json()["items"][0]["removed_at"] is None
    running = client.post("/v1/jobs", json={"kind": "profile", "model": "local:tiny"}).json()["id"]
    assert client.delete(f"/v1/jobs/{running}/artifacts").status_code == 409
    assert client.delete("/v1/jobs/none/artifacts").status_code == 404
