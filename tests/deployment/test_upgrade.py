"""One migration under running processes: a worker of this version and an API of the next, on PostgreSQL and Redis.

The order is that of docs/how-to/deploy.md: expand, then the API, then the workers; contract when nobody of the old version
is left. Every process is a real one; the next version is a folder with code of its own.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from ulid import ULID

from allocator.base.settings import Settings
from allocator.jobs.submit import submit
from allocator.stages.kinds import SEQUENCES
from allocator.stages.request import Request
from allocator.store import Store
from tests.faults.services import SERVE
from tests.faults.world import undisturbed
from tests.support import servers
from tests.support.next_version import CONTRACT, EXPAND, NextVersion, write_contracting
from tests.support.processes import kill_group, start, wait_until
from tests.support.stages import runs

WORKER = ("-m", "allocator.jobs.machine.worker")
BODY = {"kind": "profile", "model": "local:tiny"}
SCRIPT: dict[str, dict[str, Any]] = {"calibrate": {"items": 2}, "profile": {"items": 2, "units": 2}}


class Site:
    """The settings that both versions share, and the processes of either."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.next = NextVersion(folder)
        self.store = Store.open(settings)
        self.processes: list[subprocess.Popen[str]] = []

    def run(self, begin: Any, *arguments: str, **options: object) -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = begin(self.settings, *arguments, **options)
        self.processes.append(process)
        return process

    def api(self, begin: Any) -> tuple[subprocess.Popen[str], str]:
        process = self.run(begin, "-c", SERVE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def submit(self, gate: str) -> str:
        """A compression one of whose items waits for `open_gate`."""
        script = {**SCRIPT, gate[:-2]: {**SCRIPT[gate[:-2]], "gate": gate}}
        request = {"model": "local:tiny", "salt": str(ULID()), "script": script}
        asked = Request.stored("compress", request)
        name = f"{request['salt']}:{gate[:-2]}/{gate}"
        job_id = submit(self.store, self.settings, team="default", request=asked, created_by="me")
        wait_until(lambda: runs(self.settings, "begin")[name], "the item is under way")
        return job_id

    def open_gate(self) -> None:
        (self.settings.home / "gate").touch()

    def ended(self, job_id: str) -> str:
        wait_until(lambda: self.store.jobs.by_id(job_id).finished_at, "the job ends; see process.log")
        return self.store.jobs.by_id(job_id).state

    def attempts(self, job_id: str) -> set[int]:
        """Of all items of a job: whether any was taken from its worker or tried again."""
        return {
            item.attempt + item.lost_leases
            for stage in SEQUENCES["compress"]
            for item in self.store.items.of_stage(job_id, stage)
        }

    def notes(self) -> dict[str, str | None]:
        """The column that only the next version knows, by job."""
        with self.store.database.read() as connection:
            return dict(connection.execute(text("SELECT id, next_note FROM jobs")).all())

    def log(self) -> str:
        return (self.settings.logs_dir / "process.log").read_text()


@pytest.fixture
def site(
    settings: Settings, tiny_model: str, scripted: None, postgres_server: str, tmp_path: Path
) -> Iterator[Site]:
    with servers.fresh_database(postgres_server) as url, servers.redis() as broker:
        changes = {"database_url": url, "broker_url": broker, "lease_s": 5.0}
        settings = settings.model_copy(update=changes)
        Store.upgrade(settings)
        site = Site(settings, tmp_path / "next")
        with closing(site.store):
            yield site
            for process in site.processes:
                kill_group(process)
                if process.stdout is not None:
                    process.stdout.close()


def test_a_worker_of_this_version_and_an_api_of_the_next_work_together(site: Site, tmp_path: Path) -> None:
    old_api, old_url = site.api(start)
    old_worker = site.run(start, *WORKER)
    across = site.submit("calibrate-1")

    # Expand, under an API and a worker of this version.
    assert site.next.upgrade(site.settings) == 0, site.log()
    assert httpx.get(f"{old_url}/readyz").status_code == 200
    late = httpx.post(f"{old_url}/v1/jobs", json=BODY).raise_for_status().json()["id"]

    # The API: one of the next version in place of the other.
    _, url = site.api(site.next.start)
    assert httpx.get(f"{url}/v1/version").json()["schema"] == EXPAND
    old_api.send_signal(signal.SIGTERM)
    assert old_api.wait() == 0
    new = httpx.post(f"{url}/v1/jobs", json=BODY).raise_for_status().json()["id"]
    site.open_gate()
    assert [site.ended(job) for job in (across, late, new)] == ["succeeded"] * 3, site.log()
    assert site.attempts(across) == {1}, "the migration cost an item its worker"
    results, _ = undisturbed(tmp_path / "calm", SCRIPT)
    assert site.store.items.results(across) == results
    assert site.notes() == {across: None, late: None, new: "next"}
    assert httpx.get(f"{url}/v1/jobs/{across}").json()["state"] == "succeeded"

    # Workers: one that is started now goes on, too; told to stop it ends its item, and the next version does the rest.
    old_worker.send_signal(signal.SIGTERM)
    assert old_worker.wait() == 0
    (site.settings.home / "gate").unlink()
    old_worker = site.run(start, *WORKER)
    shared = site.submit("profile-0")
    old_worker.send_signal(signal.SIGTERM)
    next_worker = site.run(site.next.start, *WORKER)
    site.open_gate()
    assert old_worker.wait() == 0
    assert site.ended(shared) == "succeeded", site.log()
    assert site.attempts(shared) == {1}
    assert site.store.items.results(shared) == results
    assert next_worker.poll() is None


def test_after_a_contraction_nobody_of_this_version_takes_work(site: Site) -> None:
    forgotten = site.run(start, *WORKER)
    wait_until(lambda: "ready" in site.log(), "the worker listens")
    write_contracting(site.next.versions)
    assert site.next.upgrade(site.settings) == 0, site.log()
    _, url = site.api(site.next.start)
    assert httpx.get(f"{url}/v1/version").json()["schema"] == CONTRACT
    job = httpx.post(f"{url}/v1/jobs", json=BODY).raise_for_status().json()["id"]
    wait_until(lambda: "SchemaMismatch" in site.log(), "the worker that nobody stopped refuses the item")
    assert site.run(start, *WORKER).wait() != 0, "started anew it refuses at once"
    assert "pip install --upgrade rankalloc" in site.log()
    assert runs(site.settings, "begin") == {}
    kill_group(forgotten)
    site.run(site.next.start, *WORKER)
    assert site.ended(job) == "succeeded", site.log()
    assert set(runs(site.settings, "begin").values()) == {1}
