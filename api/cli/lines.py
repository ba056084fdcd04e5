"""A job's progress as plain lines, for where standard error is no terminal: often enough to see life, seldom enough to read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from api.web.pace import Pace, elapsed_text, left_text

_EVERY_S = 60.0
_EVERY_SHARE = 0.05
_LEAST_S = 1.0
_ROUNDING = 1e-9


class PlainLines:
    """Says where a stage is once a minute or every 5 % of it, whichever is first, at most once a second; and when it is done.

    Args:
        write: takes one line, without its end.
        clock: seconds; only differences count.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._lock = threading.RLock()  # a thread of its own looks at the clock while the job is silent
        self._stage: str | None = None
        self._counts = (0, 0, "")
        self._waiting: str | None = None
        self._pace = Pace(0.0, clock())
        self._told_at, self._told_share = clock(), 0.0

    def update(self, stage: str, done: int, total: int, unit: str, *, waiting: str | None = None) -> None:
        """The newest counts of the present stage; ``total`` 0 is not known yet. ``waiting``: why nobody works on it."""
        with self._lock:
            now, share = self._clock(), done / total if total else 0.0
            if stage != self._stage:
                self.done()
                self._stage, self._pace, self._told_share = stage, Pace(share, now), share
            self._counts, self._waiting = (done, total, unit), waiting
            self._pace.see(share, now, waiting=waiting is not None)
            self._told_share = min(self._told_share, share)
            self.tick()

    def tick(self) -> None:
        """Say what is due, also where nothing new is known."""
        with self._lock:
            if self._stage is None:
                return
            now, (done, total, _) = self._clock(), self._counts
            share = done / total if total else 0.0
            since = now - self._told_at
            # The end is told by `done`.
            enough = share < 1 and share - self._told_share >= _EVERY_SHARE - _ROUNDING
            if since >= _EVERY_S or (enough and since >= _LEAST_S):
                self._told_at, self._told_share = now, share
                self._write(f"{self._stage}: {self._text(now)}")

    def done(self) -> None:
        """The present stage has ended well. Told of stages that somebody could watch, not of those that flew by."""
        with self._lock:
            now = self._clock()
            if self._stage is not None and (elapsed := self._pace.elapsed_s(now)) >= _LEAST_S:
                self._told_at = now
                self._write(f"{self._stage}: done, {elapsed_text(elapsed)} elapsed")
            self._stage = None

    def _text(self, now: float) -> str:
        done, total, unit = self._counts
        parts = [f"{done} of {total} {unit} ({100 * done // total} %)"] if total else []
        if self._waiting is not None:
            return ". ".join([*parts, self._waiting])
        parts += [f"{elapsed_text(self._pace.elapsed_s(now))} elapsed", left_text(self._pace.left_s(now))]
        return ", ".join(filter(None, parts))
