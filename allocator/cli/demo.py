"""``rankalloc demo``: the main job on the bundled trained models, through the service's own front door.

It starts ``rankalloc serve`` as a process of its own and talks REST to it, as any client would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from allocator.access import DEFAULT_TEAM
from allocator.cli.app import stderr, stdout
from allocator.cli.progress import job_progress
from allocator.cli.tables import comparison
from allocator.errors import JobFailed
from allocator.settings import Settings

MODELS = ("local:pylm-llama", "local:pylm-gpt2")
BUDGETS = ["block_params=0.8", "kv_bytes_per_token=0.75"]
SECOND_BUDGETS = ["params=0.7", "kv_bytes_per_token=0.6", "flops_per_token=0.75@context=2048,phase=decode"]
_POLL_S = 0.3
_MEMBER = "rankalloc-demo"
_TOKEN_S = 86400.0


def run(settings: Settings, *, tables: bool) -> dict[str, Any]:
    """Compress every bundled model over REST, then plan a second budget from a stored profile.

    Raises:
        JobFailed: a job did not succeed, or the service did not start.
    """
    reports = []
    with (
        _service(settings) as url,
        _login(settings) as headers,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        stderr.print(f"service ready at {url}, data in {settings.home}", markup=False)
        for model in MODELS:
            job = _watch(client, {"kind": "compress", "model": model, "budgets": BUDGETS})
            report = client.get(f"/v1/jobs/{job['id']}/artifacts/report.json").raise_for_status().json()
            reports.append(report)
            if tables:
                stdout.print(comparison(report))
                stderr.print(
                    f"  checkpoints and report.html: {settings.artifacts_dir / job['id']}\n", soft_wrap=True
                )
        second = _watch(client, {"kind": "plan", "model": MODELS[0], "budgets": SECOND_BUDGETS})
        plan = client.get(f"/v1/plans/{second['plan']}").raise_for_status().json()
    if tables:
        solved = plan["certificate"]["time_s"] * 1000
        stdout.print(
            f"the second budget ({'  '.join(SECOND_BUDGETS)}) was solved in {solved:.0f} ms from the stored profile:"
            f" predicted loss {plan['predicted']['loss_nats']:.4f} nats/token,"
            f" uniform {plan['baseline']['uniform']['predicted_loss_nats']:.4f}",
            soft_wrap=True,
        )
    return {"reports": reports, "second": plan}


@contextmanager
def _service(settings: Settings) -> Iterator[str]:
    """A running ``rankalloc serve`` on a free port; stopped with everything it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "allocator", "serve", "--port", "0", "--json"],
        env={**os.environ, **settings.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        while line := process.stdout.readline():
            lines.append(line)
            if line.startswith("}"):
                break
        else:
            raise JobFailed("the service did not start; its messages are above")
        yield json.loads("".join(lines))["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _login(settings: Settings) -> Iterator[dict[str, str]]:
    """Headers with a token of its own, revoked afterwards; none where the store has had no token and nobody logs in."""
    from allocator.store import Store

    store = Store.open(settings)
    try:
        if not store.tokens.any():
            yield {}
            return
        store.teams.put_member(DEFAULT_TEAM, _MEMBER, "submit", actor=_MEMBER)
        made = store.tokens.create(
            DEFAULT_TEAM, _MEMBER, scope="submit", lifetime_s=_TOKEN_S, created_by=_MEMBER
        )
        try:
            yield {"Authorization": f"Bearer {made.secret}"}
        finally:
            store.teams.remove_member(DEFAULT_TEAM, _MEMBER, actor=_MEMBER)
    finally:
        store.close()


def _watch(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Submit a job, draw its progress until it ends, and return its document."""
    response = client.post("/v1/jobs", json=body)
    if response.is_error:
        raise JobFailed(f"{body['model']}: {response.json().get('detail', response.text)}")
    job: dict[str, Any] = response.json()
    stderr.print(
        f"[bold]{body['model']}[/bold]  {body['kind']}  {'  '.join(body['budgets'])}", soft_wrap=True
    )
    seen = 0
    with job_progress(stderr) as on_update:
        while True:
            job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
            events = (
                client.get(f"/v1/jobs/{job['id']}/events", params={"after": seen})
                .raise_for_status()
                .json()["items"]
            )
            seen = events[-1]["seq"] if events else seen
            on_update(job, events)
            if job["state"] in ("succeeded", "failed", "crashed", "cancelled"):
                break
            time.sleep(_POLL_S)
    if job["state"] != "succeeded":
        error = job["error"] or {}
        failure = JobFailed(f"job {job['id']} {job['state']}: {error.get('detail', 'see its events')}")
        failure.exit_code = error.get("exit_code", JobFailed.exit_code)  # type: ignore[misc]
        raise failure
    return job
