"""Starting the product's processes for real, with scripted stages, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from allocator.base.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def environment(settings: Settings) -> dict[str, str]:
    """Of a child process that finds the checkout and the scripted stages."""
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "site"), str(ROOT)])
    return {**os.environ, **settings.environment(), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def start(
    settings: Settings, *arguments: str, more: dict[str, str] | None = None, **options: object
) -> subprocess.Popen[str]:
    """A Python process in a session of its own; its output goes to ``<home>/logs``.

    ``more`` goes before its `environment`.
    """
    with (settings.logs_dir / "process.log").open("a") as log:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [sys.executable, *arguments],
            env=environment(settings) | (more or {}),
            stderr=log,
            text=True,
            start_new_session=True,
            **{"stdout": log, **options},
        )


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A worker process, killed with all it started at the end."""
    process = start(settings, "-m", "allocator.jobs.machine.worker")
    try:
        yield process
    finally:
        kill_group(process)


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """Signal a process and everything in its session, and wait where the signal is deadly."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        process.wait()


def wait_until(condition: Callable[[], object], what: str, patience_s: float = 60.0) -> None:
    """Poll; the patience only bounds a test that has failed already."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """All descendants of a process; threads and processes that end meanwhile have none."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += [int(child), *children(int(child))]
    return found


def workers(service: int) -> list[int]:
    """The processes of a service's worker. Celery renames them where ``setproctitle`` is installed; their option stays."""
    return [
        pid
        for pid in children(service)
        if b"--stop-when-stdin-closes" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def group_is_empty(group: int) -> bool:
    """Whether no living process is left in a process group (zombies do not live)."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                state, _parent, found = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(found) == group and state != "Z":
                    return False
    return True
