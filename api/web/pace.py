"""Progress and time left of a stage, estimated by a follower; and both in words."""

from __future__ import annotations

_LEAST_SHARE = 0.02
_LEAST_S = 5.0
_TO_5_S_BELOW_S = 600.0


class Pace:
    """One stage: its elapsed time and a steady estimate of the rest, of whole-stage averages alone.

    Shares run from 0 to 1; times are those of any one clock. What was done before the follower came counts for nothing: the
    estimate is of what it saw done. Time in which nobody works on the stage is neither elapsed nor part of the pace.
    """

    def __init__(self, share: float, now: float) -> None:
        self._start, self._seen_at, self._waiting = now, now, False
        self._first, self._base_s = share, 0.0
        self._share, self._at_s, self._step = share, 0.0, 0.0

    def see(self, share: float, now: float, *, waiting: bool = False) -> None:
        """The newest share; ``waiting``: nobody works on the stage until it is seen again."""
        if self._waiting:
            self._start += now - self._seen_at
        self._seen_at, self._waiting = now, waiting
        elapsed = self.elapsed_s(now)
        if share < self._first:  # an attempt died, and what it had done is done again
            self._first, self._base_s = share, elapsed
        if share != self._share:
            self._step = max(0.0, share - self._share)
            self._share, self._at_s = share, elapsed

    def elapsed_s(self, now: float) -> float:
        """Seconds of work since the stage was first seen."""
        return (self._seen_at if self._waiting else now) - self._start

    def left_s(self, now: float) -> float | None:
        """Seconds until the stage ends; None while too little is seen to say, and where it is overdue."""
        progress, elapsed = (self._share - self._first), self.elapsed_s(now) - self._base_s
        span = 1.0 - self._first
        if self._share >= 1 or progress < _LEAST_SHARE * span or elapsed < _LEAST_S:
            return None
        # Between two steps the time left counts down; taken anew at every look it would grow until the next step. Only once
        # that step is late does it grow: as if it came this very moment.
        ahead = min(span, progress + self._step)
        total = max((self._at_s - self._base_s) / progress, elapsed / ahead) * span
        return total - elapsed if total > elapsed else None


def elapsed_text(seconds: float) -> str:
    """``3:10``, or ``2:03:10`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def left_text(seconds: float | None) -> str:
    """``about 4:40 left``, to 5 seconds; from ten minutes on to the minute; nothing for None."""
    if seconds is None:
        return ""
    to_5 = max(5, 5 * round(seconds / 5))
    if to_5 < _TO_5_S_BELOW_S:
        return f"about {elapsed_text(to_5)} left"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left"
