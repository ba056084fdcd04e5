"""One round's world: a home, a database, a broker, and processes that are allowed to die."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text
from ulid import ULID

from allocator.base.settings import Settings
from allocator.jobs.inline import run_inline
from allocator.jobs.submit import submit
from allocator.stages.request import Request
from allocator.store import Store
from tests.support import processes, stages
from tests.support.jobs import new_job
from tests.support.servers import Postgres, Redis

PATIENCE_S = 120.0
"""Only bounds a round that has failed already."""

SCRIPT: dict[str, dict[str, Any]] = {
    "calibrate": {"items": 2, "pause_s": 0.05},
    "profile": {"items": 3, "units": 3, "pause_s": 0.05, "partial": "layer"},
    "refine": {"units": 2, "pause_s": 0.05},
    "apply": {
        "pause_s": 0.05,
        "partial": "layer",
        "let_go": True,
        "writes": {"closed-form": 70_000, "compact": 100_000},
    },
    "heal": {"pause_s": 0.05, "writes": {"compact": 90_000}},
    "report": {"writes": {"report": 1_000}},
}
"""All stages of a compression in about two seconds; healing replaces what applying wrote, as it does in earnest."""


def scripted(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`SCRIPT` with further entries for some stages."""
    return {name: {**SCRIPT.get(name, {}), **changes.get(name, {})} for name in {**SCRIPT, **changes}}


class World:
    """Processes over one store. Whatever was started is killed by `close`.

    Leases are short, so that what waits for them is quick, and as many workers may die as like to.
    """

    def __init__(
        self, home: Path, chance: random.Random, postgres: Postgres | None, redis: Redis | None
    ) -> None:
        self.chance = chance
        self.postgres, self.redis = postgres, redis
        self._database = f"faults_{ULID()}".lower()
        url = "" if postgres is None else _create_database(postgres.url, self._database)
        self.settings = Settings(
            home=home,
            database_url=url,
            broker_url="" if redis is None else redis.url,
            lease_s=0.8,
            max_attempts=50,
            retry_backoff_s=0.05,
            dispatch_interval_s=0.05,
            reconcile_interval_s=0.15,
            outage_s=60.0,
        )
        self.settings.prepare_home()
        Store.upgrade(self.settings)
        self.store = Store.open(self.settings, patience_s=60.0)
        self.jobs: dict[str, dict[str, Any]] = {}
        self._processes: list[subprocess.Popen[str]] = []

    def with_settings(self, **changes: Any) -> None:
        """Other settings for what is started from now on."""
        self.settings = self.settings.model_copy(update=changes)

    def worker(self, *, largest_file: int | None = None, clock_off_s: float = 0.0) -> subprocess.Popen[str]:
        """A worker process.

        Args:
            largest_file: bytes, the process's soft RLIMIT_FSIZE.
            clock_off_s: how wrong its clock is (``tests/support/site``).
        """

        def limit() -> None:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file or hard, hard))

        options: dict[str, Any] = {} if largest_file is None else {"preexec_fn": limit}
        return self.python(
            *("-m", "allocator.jobs.machine.worker"), more={"FAULTS_CLOCK_OFF_S": str(clock_off_s)}, **options
        )

    def dispatcher(self) -> subprocess.Popen[str]:
        """Dispatcher and reconciler."""
        return self.python("-m", "tests.faults.dispatch", stdin=subprocess.PIPE)

    def python(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Any other Python process."""
        return self._started(processes.start(self.settings, *arguments, **options))

    def _started(self, process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        self._processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL for a process and all its children."""
        processes.kill_group(process, signal.SIGKILL)

    def submit(self, script: dict[str, Any] | None = None, **options: Any) -> str:
        """A compression; what becomes of it is audited at the end of the round."""
        script = SCRIPT if script is None else script
        options |= {"team": "default", "created_by": "faults", "request": self.request(script)}
        job_id = submit(self.store, self.settings, **options)
        self.jobs[job_id] = script
        return job_id

    def request(self, script: dict[str, Any]) -> Request:
        """A compression whose items and units no other job shares."""
        return Request.stored("compress", {"model": "local:m", "salt": str(ULID()), "script": script})

    def pause(self, most_s: float) -> None:
        """A random time."""
        time.sleep(self.chance.uniform(0.0, most_s))

    def over(self, *job_ids: str) -> bool:
        return all(self.store.jobs.by_id(job_id).finished_at for job_id in job_ids or self.jobs)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        processes.wait_until(condition, what, PATIENCE_S)

    def wait_for_jobs(self, *job_ids: str) -> None:
        self.wait(lambda: self.over(*job_ids), f"the jobs end; {self._log()}")

    def begun(self, *stage_names: str) -> bool:
        """Whether an item of such a stage has been begun."""
        return any(
            name.rpartition(":")[2].startswith(tuple(f"{stage}/" for stage in stage_names))
            for name in stages.runs(self.settings, "begin")
        )

    def in_hand(self) -> bool:
        """Whether some item has been begun and not ended."""
        begun, ended = (sum(stages.runs(self.settings, what).values()) for what in ("begin", "end"))
        return begun > ended

    def _log(self) -> str:
        return f"see {self.settings.logs_dir}/process.log"

    def close(self) -> None:
        for process in self._processes:
            self.kill(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self.store.close()
        if self.postgres is not None:
            _drop_database(self.postgres.url, self._database)


def undisturbed(home: Path, script: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Results by stage and artifacts by name of the same script where nothing happens, run in this process."""
    settings = Settings(home=home)
    store = Store.open(settings, create=True)
    request = {"model": "local:m", "script": script}
    job_id = new_job(store, settings, "compress", request, created_by="faults", inline=True)
    state = run_inline(store, settings, job_id)
    assert state == "succeeded", state
    files = {
        row["name"]: (settings.artifacts_dir / job_id / row["name"]).read_bytes()
        for row in store.artifacts.list("default", job_id)
    }
    results = store.items.results(job_id)
    store.close()
    return results, files


def _create_database(server_url: str, name: str) -> str:
    _administer(server_url, f"CREATE DATABASE {name}")
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def _drop_database(server_url: str, name: str) -> None:
    _administer(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server_url: str, statement: str) -> None:
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
