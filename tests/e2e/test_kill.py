"""SIGKILL in the middle of the real work: the real service, the real stages, a trained model."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from tests.e2e.conftest import Demo, clean_environment
from tests.support.processes import ROOT, wait_until, workers

PATIENCE_S = 300.0


KILLS = 10


@contextmanager
def service(home: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A running ``rankalloc serve`` with its worker, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--json"],
        env=clean_environment(
            RANKALLOC_HOME=str(home),
            RANKALLOC_LEASE_S="5",
            RANKALLOC_MAX_ATTEMPTS=str(KILLS + 2),
            RANKALLOC_WORKER_PAUSE_S="1",
        ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline()
        with httpx.Client(base_url=json.loads(text)["url"], timeout=30) as client:
            yield process, client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()


@pytest.mark.timeout(1100)
def test_workers_killed_ten_times_at_random_change_no_bit_and_redo_no_finished_unit(
    demo: Demo, tmp_path: Path
) -> None:
    """The same model and budgets as the demo in a fresh store; profile and plan must come out the same."""
    chance = random.Random(4)
    with service(tmp_path / "home") as (process, client):
        body = {
            "kind": "plan",
            "model": "local:pylm-gpt2",
            "budgets": ["block_params=0.8", "kv_bytes_per_token=0.75"],
        }
        job = client.post("/v1/jobs", json=body).raise_for_status().json()
        path = f"/v1/jobs/{job['id']}"

        def over() -> bool:
            return client.get(path).json()["state"] in ("succeeded", "failed", "crashed")

        def started() -> int:
            items = client.get(f"{path}/events", params={"limit": 500}).raise_for_status().json()["items"]
            return sum(event["type"] == "item.started" for event in items)

        kills = 0
        while kills < KILLS:
            before = started()
            wait_until(lambda seen=before: started() > seen or over(), "a worker takes an item", PATIENCE_S)
            time.sleep(chance.uniform(0, 3))
            assert not over(), f"the job ended after {kills} kills; let the waits be shorter"
            for pid in workers(process.pid):
                os.kill(pid, signal.SIGKILL)
            kills += 1
        wait_until(over, "the job ends", PATIENCE_S)
        done = client.get(path).json()
        profile = client.get(f"/v1/profiles/{done['profile_key']}").json()
    assert done["state"] == "succeeded", done["error"]
    assert done["plan"] == demo.report("pylm-gpt2")["plan"]["digest"]
    undisturbed, store = Store.open(demo.settings), Store.open(Settings(home=tmp_path / "home"))
    try:
        assert profile == undisturbed.profiles.get("default", done["profile_key"]).document, "to the last bit"
        results = store.items.results(job["id"])
        assert sum(result["measured_before"] for result in results["profile"]) == 0, (
            "no unit was measured twice"
        )
        every = [item for stage in done["stages"] for item in store.items.of_stage(job["id"], stage)]
        assert {item.state for item in every} == {"succeeded"}
        # An execution is a claim: one for every item, and one more for each that a kill interrupted.
        assert sum(item.attempt for item in every) <= len(every) + KILLS
        assert sum(item.lost_leases for item in every) == sum(item.attempt - 1 for item in every) > 0
    finally:
        undisturbed.close()
        store.close()
