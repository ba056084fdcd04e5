"""SIGKILL in the middle of the real work: the real service, the real stages, a trained model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Demo, clean_environment
from tests.support.processes import ROOT, wait_until

PATIENCE_S = 300.0


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def workers(service: subprocess.Popen[str]) -> list[int]:
    return [
        pid
        for pid in children(service.pid)
        if b"allocator.jobs.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.timeout(900)
def test_a_worker_killed_while_profiling_costs_one_layer_and_changes_no_plan(
    demo: Demo, tmp_path: Path
) -> None:
    """The same model and budgets as the demo in a fresh store; the plan must come out the same."""
    service = subprocess.Popen(
        [sys.executable, "-m", "allocator", "serve", "--port", "0", "--json"],
        env=clean_environment(RANKALLOC_HOME=str(tmp_path / "home"), RANKALLOC_LEASE_S="5"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += service.stdout.readline()
        with httpx.Client(base_url=json.loads(text)["url"], timeout=30) as client:
            body = {
                "kind": "plan",
                "model": "local:pylm-gpt2",
                "budgets": ["block_params=0.8", "kv_bytes_per_token=0.75"],
            }
            job = client.post("/v1/jobs", json=body).raise_for_status().json()
            path = f"/v1/jobs/{job['id']}"

            def events() -> list[tuple[str, str]]:
                items = client.get(f"{path}/events", params={"limit": 500}).raise_for_status().json()["items"]
                return [(event["type"], event["message"]) for event in items]

            def profiling_second_layer() -> bool:
                started = [m for kind, m in events() if kind == "item.started" and m.startswith("profile/")]
                return len(started) >= 2

            wait_until(profiling_second_layer, "the second layer is being measured", PATIENCE_S)
            time.sleep(0.5)
            for pid in workers(service):
                os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda: client.get(path).json()["state"] in ("succeeded", "failed", "crashed"),
                "the job ends",
                PATIENCE_S,
            )
            done, history = client.get(path).json(), events()
        assert done["state"] == "succeeded", done["error"]
        finished = [message for kind, message in history if kind == "item.finished"]
        assert len(finished) == len(set(finished)), "no item finished twice"
        started = [message for kind, message in history if kind == "item.started"]
        again = {message for message in started if started.count(message) > 1}
        assert len(started) == len(finished) + 1, "exactly one item was run again"
        assert all("profile/" in message for message in again)
        assert done["plan"] == demo.report("pylm-gpt2")["plan"]["digest"]
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(timeout=60)
        assert service.stdout is not None
        service.stdout.close()
