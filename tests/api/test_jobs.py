"""Jobs over REST."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from tests.support.jobs import new_job, run_to_end
from tests.support.profiles import small_profile

BODY = {"kind": "plan", "model": "local:tiny", "budgets": ["block_params=0.8", "kv_bytes_per_token=0.75"]}


@pytest.fixture
def finished(settings: Settings, store: Store, scripted: None) -> str:
    """A job that has run to its end and written files."""
    request = {"model": "local:tiny", "budgets": [], "script": {"prepare": {"artifact": True}}}
    job_id = new_job(store, settings, "profile", request)
    assert run_to_end(store, Executor(store, settings), job_id) == "succeeded"
    return job_id


def test_submitting_answers_where_to_look(client: TestClient, tiny_model: str) -> None:
    answer = client.post("/v1/jobs", json=BODY)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert job["state"] == "queued"
    assert job["budgets"] == BODY["budgets"]
    assert job["queue_reason"]
    assert client.get(answer.headers["location"]).json() == job


def test_the_same_idempotency_key_is_the_same_job(client: TestClient, tiny_model: str) -> None:
    headers = {"Idempotency-Key": "mine"}
    first = client.post("/v1/jobs", json=BODY, headers=headers).json()
    assert client.post("/v1/jobs", json=BODY, headers=headers).json()["id"] == first["id"]
    other = client.post("/v1/jobs", json={**BODY, "budgets": ["params=0.5"]}, headers=headers)
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_jobs_are_listed_by_state_and_model_in_pages(client: TestClient, tiny_model: str) -> None:
    ids = [client.post("/v1/jobs", json=BODY).json()["id"] for _ in range(5)]
    client.post(f"/v1/jobs/{ids[0]}/cancel")
    seen: list[str] = []
    query: dict[str, str] = {"state": "queued", "model": "local:tiny", "limit": "2"}
    while True:
        page = client.get("/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == list(reversed(ids[1:]))
    assert client.get("/v1/jobs", params={"model": "local:other"}).json()["items"] == []


def test_an_unchanged_job_is_not_sent_again(
    client: TestClient, tiny_model: str, settings: Settings, store: Store
) -> None:
    url = client.post("/v1/jobs", json=BODY).headers["location"]
    tag = client.get(url).headers["etag"]
    same = client.get(url, headers={"If-None-Match": tag})
    assert (same.status_code, same.content) == (304, b"")
    (message,) = store.wakeups.due()
    Executor(store, settings).execute(message.item_id)
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 200


def test_cancelling_is_repeatable_and_a_finished_job_is_a_conflict(
    client: TestClient, tiny_model: str, finished: str
) -> None:
    url = client.post("/v1/jobs", json=BODY).headers["location"]
    for _ in range(2):
        answer = client.post(f"{url}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
        assert "cancel" not in answer.json()["links"]
    conflict = client.post(f"/v1/jobs/{finished}/cancel")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "conflict")


def test_events_continue_after_a_number(client: TestClient, finished: str) -> None:
    events = client.get(f"/v1/jobs/{finished}/events").json()["items"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "job.queued"
    assert events[-1]["type"] == "job.succeeded"
    rest = client.get(f"/v1/jobs/{finished}/events", params={"after": 3, "limit": 2}).json()["items"]
    assert rest == events[3:5]


def _stream(client: TestClient, url: str, **headers: str) -> list[dict[str, str]]:
    """All messages of a server-sent stream that ends."""
    messages: list[dict[str, str]] = []
    with client.stream("GET", url, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        message: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                message[name] = value
            elif message:
                messages.append(message)
                message = {}
    return messages


def test_the_stream_tells_everything_and_ends_with_the_job(client: TestClient, finished: str) -> None:
    events = client.get(f"/v1/jobs/{finished}/events").json()["items"]
    messages = _stream(client, f"/v1/jobs/{finished}/events/stream")
    assert [json.loads(message["data"]) for message in messages] == events
    assert [message["id"] for message in messages] == [str(event["seq"]) for event in events]
    assert [message["event"] for message in messages] == [event["type"] for event in events]


def test_a_reconnecting_stream_misses_and_repeats_nothing(client: TestClient, finished: str) -> None:
    url = f"/v1/jobs/{finished}/events/stream"
    whole = _stream(client, url)
    assert _stream(client, url, **{"Last-Event-ID": "4"}) == whole[4:]
    assert _stream(client, f"{url}?after=2") == whole[2:]
    assert _stream(client, f"{url}?after=2", **{"Last-Event-ID": "7"}) == whole[7:], "the later one counts"
    assert _stream(client, url, **{"Last-Event-ID": str(len(whole))}) == []


def test_a_stream_of_no_job_is_a_404(client: TestClient) -> None:
    answer = client.get("/v1/jobs/none/events/stream")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_artifacts_are_listed_and_downloaded_whole_or_in_part(
    client: TestClient, settings: Settings, finished: str
) -> None:
    found = {item["name"]: item for item in client.get(f"/v1/jobs/{finished}/artifacts").json()["items"]}
    assert set(found) == {"compact/inner/weights.bin", "report.json"}
    weights = found["compact/inner/weights.bin"]
    answer = client.get(weights["href"])
    assert answer.content == (settings.artifacts_dir / finished / weights["name"]).read_bytes()
    assert answer.headers["etag"] == f'"{weights["sha256"]}"'
    assert "attachment" in answer.headers["content-disposition"]
    part = client.get(weights["href"], headers={"Range": "bytes=100-109"})
    assert (part.status_code, part.content) == (206, answer.content[100:110])


@pytest.mark.parametrize(
    "name",
    ["../../rankalloc.db", "..%2F..%2Frankalloc.db", "/etc/passwd", "compact", "report.json/", "x%00y"],
)
def test_only_names_in_the_table_are_artifacts(client: TestClient, finished: str, name: str) -> None:
    assert client.get(f"/v1/jobs/{finished}/artifacts/{name}").status_code == 404


def test_a_removed_file_is_not_found(client: TestClient, settings: Settings, finished: str) -> None:
    (settings.artifacts_dir / finished / "report.json").unlink()
    assert client.get(f"/v1/jobs/{finished}/artifacts/report.json").status_code == 404


def test_a_failed_job_says_why_without_paths(
    client: TestClient, settings: Settings, store: Store, scripted: None
) -> None:
    script = {"prepare": {"error": {"kind": "ValueError", "item": "prepare-0"}}}
    request = {"model": "local:tiny", "budgets": [], "script": script}
    job_id = new_job(store, settings, "profile", request)
    run_to_end(store, Executor(store, settings), job_id)
    answer = client.get(f"/v1/jobs/{job_id}")
    assert answer.json()["state"] == "failed"
    assert answer.json()["error"]["type"] == "internal"
    assert "/a/path" not in answer.text
    assert "/a/path" not in client.get(f"/v1/jobs/{job_id}/events").text


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"kind": "plan", "heal": 3}, "heal", "of kind compress only"),
        ({"kind": "compress", "around": "a" * 64}, "around", "of kind profile or plan only"),
        ({"kind": "plan", "profile": "small"}, "profile", "of kind transfer only"),
        ({"kind": "transfer", "budgets": []}, "profile", "GET /v1/profiles lists them"),
        ({"kind": "plan", "device": "tpu"}, "device", "'cpu' or 'cuda'"),
    ],
)
def test_a_field_that_the_kind_does_not_know_is_refused(
    client: TestClient, tiny_model: str, body: dict[str, object], field: str, said: str
) -> None:
    answer = client.post("/v1/jobs", json={**BODY, **body})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert said in error["allowed"]
    assert client.get("/v1/jobs").json()["items"] == []


def test_a_transfer_needs_a_profile_and_a_plan_that_there_are_and_belong_together(
    client: TestClient, store: Store, tiny_model: str
) -> None:
    body = {"kind": "transfer", "model": "local:tiny", "profile": "small"}
    assert client.post("/v1/jobs", json=body).status_code == 404
    store.profiles.put("default", small_profile())
    plan = plan_from_profile(small_profile("another"), ["block_params=0.8"])
    store.plans.put("default", plan, created_by="me")
    answer = client.post("/v1/jobs", json={**body, "plan": plan.digest})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["allowed"] == "a plan made from the named profile"
    assert client.post("/v1/jobs", json={**body, "plan": "no such plan"}).status_code == 404
    job = client.post("/v1/jobs", json=body).json()
    assert job["stages"] == ["prepare", "calibrate", "probe"]
    assert client.post("/v1/jobs", json={**body, "profile": "b"}).status_code == 404
    around = {"kind": "profile", "model": "local:tiny", "around": "no such plan"}
    assert client.post("/v1/jobs", json=around).status_code == 404
    assert client.post("/v1/jobs", json={**around, "around": plan.digest}).status_code == 202
