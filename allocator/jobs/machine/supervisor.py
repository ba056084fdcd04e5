"""Keeps one worker process running beside ``serve``."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from ulid import ULID

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.machine.reconciler import release
from allocator.jobs.machine.worker import WATCH_STDIN
from allocator.stages.pipeline import CPU_QUEUE, QUEUES
from allocator.store import Store

log = logging.getLogger(__name__)

_LOG_LIMIT_BYTES = 10 << 20
_FIRST_PAUSE_S = 0.5
_HEALTHY_S = 60.0
_NICER, _NICEST = 10, 19
"""The niceness of a worker beyond the API's. It computes for minutes on as many cores as there are, beside an API whose answers
people wait for and which needs milliseconds: where both want a core, the API gets it. Alone, the worker is as fast as ever.
"""


class Supervisor:
    """Starts a worker in a session of its own, restarts it with growing pauses when it dies, stops it with
    the service.

    A dead worker's whole process group is killed before its leases are given back: whatever it left running
    cannot disturb its successor, and nobody waits for a lease whose holder is known to be dead.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = ""
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    @property
    def log_file(self) -> str:
        return str(self._settings.logs_dir / "worker.log")

    @property
    def worker_pid(self) -> int | None:
        """The running worker's process id."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the worker: it may finish its item for ``worker_stop_s``, then it is killed and the item given
        back.
        """
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._start()
            while process.poll() is None and not self._stopping.wait(0.1):
                pass
            if self._stopping.is_set():
                self._end(process)
                self._give_back(counts=False)
                return
            if time.monotonic() - started > _HEALTHY_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("the worker ended with status %s; see %s", process.returncode, self.log_file)
            self._kill(process)
            self._give_back(counts=True)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, self._settings.worker_pause_s)

    def _start(self) -> subprocess.Popen[bytes]:
        self._owner = f"supervised-{ULID()}"
        environment = {
            **os.environ,
            **self._settings.environment(),
            "RANKALLOC_WORKER_ID": self._owner,
            # The only worker there is: with a GPU it takes everything, without one what needs none.
            "RANKALLOC_WORKER_QUEUES": ",".join(QUEUES if self._settings.device == "cuda" else (CPU_QUEUE,)),
            "PYTHONUNBUFFERED": "1",
        }
        log_file = self._settings.logs_dir / "worker.log"
        if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "allocator.jobs.machine.worker", WATCH_STDIN],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        _make_nicer(self._process.pid)
        return self._process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            patience = time.monotonic() + self._settings.worker_stop_s
            # An idle worker needs seconds to say goodbye; one without an item has nothing left to lose.
            while process.poll() is None and time.monotonic() < patience and self._busy():
                time.sleep(0.05)
        self._kill(process)

    def _busy(self) -> bool:
        try:
            return bool(self._store.items.owned_by(self._owner))
        except StoreUnavailable:
            return False

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the worker's process group, children of a dead worker included."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _give_back(self, *, counts: bool) -> None:
        try:
            release(self._store, self._settings, self._owner, counts=counts)
        except StoreUnavailable as error:
            log.warning("the worker's items wait for their leases to expire: %s", error.detail)


def _make_nicer(leader: int) -> None:
    """Raise the niceness of a process that leads a session of its own, before it has started others."""
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + _NICER, _NICEST)
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PGRP, leader, niceness)
    # Linux with autogroups shares the processor among sessions first, by the sessions' own niceness (sched(7)).
    with suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text(str(niceness))
