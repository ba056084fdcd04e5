"""Keeps an item's lease alive while its work runs, and notices when the work is no longer wanted, or no longer moves."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import TracebackType

from allocator.base.errors import Cancelled, LeaseLost, StoreUnavailable
from allocator.store import Item, Store, states

log = logging.getLogger(__name__)

STALLED = signal.SIGUSR1
"""The signal to a process whose item has not moved for too long."""
_GRACE_S = 60.0


class Heartbeat:
    """A thread that renews the lease three times per lease length, between ``with`` and its end.

    `check` raises LeaseLost or Cancelled once a beat has found the one or the other.

    With ``stalled_s`` an item may go on for any time as long as it moves. Without progress for so long the process is sent
    ``STALLED``, for which whoever runs items has a handler; a minute later, where nothing came of it, SIGKILL: its lease runs
    out and another worker takes the item.
    """

    def __init__(self, store: Store, item: Item, lease_s: float, stalled_s: float | None = None) -> None:
        self._store = store
        self._item = item
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._lost = False
        self._cancelled = False
        self._stalled_s, self._moved_at, self._signalled = stalled_s, time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{item.key}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def moved(self) -> None:
        """The work has come on."""
        self._moved_at = time.monotonic()

    def beat(self, progress: tuple[int, int, str] | None = None) -> None:
        """Renew now, store progress, and see whether the job still wants the work."""
        with self._store.transaction():
            if not self._store.items.renew(self._item.id, self._item.attempt, self._lease_s, progress):
                self._lost = True
                return
            state = self._store.jobs.state(self._item.job_id)
        self._cancelled = state not in states.OPEN

    def check(self) -> None:
        """Raises LeaseLost or Cancelled, from memory: costs nothing."""
        if self._lost:
            raise LeaseLost(
                f"Attempt {self._item.attempt} of {self._item.stage}/{self._item.key} lost its lease."
            )
        if self._cancelled:
            raise Cancelled("The job was cancelled.")

    def _run(self) -> None:
        while not self._stop.wait(self._lease_s / 3) and not self._lost:
            self._look()
            try:
                self.beat()
            except StoreUnavailable as error:
                # The next beat tries again; if the outage outlasts the lease, the fence decides.
                log.warning("heartbeat of %s/%s failed: %s", self._item.stage, self._item.key, error.detail)

    def _look(self) -> None:
        """End the work if it has not moved for too long."""
        still_s = time.monotonic() - self._moved_at
        if self._stalled_s is None or still_s < self._stalled_s:
            return
        if not self._signalled:
            self._signalled = True
            log.error("%s/%s has not moved for %.0f s", self._item.stage, self._item.key, still_s)
            os.kill(os.getpid(), STALLED)
        elif still_s > self._stalled_s + _GRACE_S:
            os.kill(os.getpid(), signal.SIGKILL)
