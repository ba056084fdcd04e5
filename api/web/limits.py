"""Limits that keep one caller from taking the service away from others: requests per minute, nesting of JSON."""

from __future__ import annotations

import math
import re
import threading
import time
from itertools import accumulate

from allocator.base.errors import TooManyRequests

MAX_JSON_DEPTH = 32
_MOST_CALLERS = 10_000
# A text and its quotes; one that never ends goes to the end. Possessive: no way back, hence linear.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class RequestRate:
    """A bucket per caller that holds a minute's worth of requests and fills evenly. In memory: each server process
    counts for itself, and forgets when it ends.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, caller: str) -> None:
        """Count a request. Raises TooManyRequests, with the seconds until the next one is free."""
        if not self._most:
            return
        per_second = self._most / 60.0
        with self._lock:
            now = time.monotonic()
            level, updated_at = self._buckets.get(caller, (float(self._most), now))
            level = min(float(self._most), level + (now - updated_at) * per_second)
            if level < 1.0:
                wait_s = max(1, math.ceil((1.0 - level) / per_second))
                raise TooManyRequests(
                    f"At most {self._most} requests per minute and token (RANKALLOC_REQUESTS_PER_MINUTE).",
                    retry_after_s=wait_s,
                )
            if len(self._buckets) >= _MOST_CALLERS:
                # Whoever has not asked for a minute has a full bucket again: nothing to remember.
                self._buckets = {key: row for key, row in self._buckets.items() if now - row[1] < 60.0}
            self._buckets[caller] = (level - 1.0, now)


def json_depth(body: bytes) -> int:
    """The depth of nested arrays and objects of a JSON text; some number for a text that is no JSON."""
    outside = _TEXT.sub(b"", body)
    return max(accumulate(_STEPS[byte] for byte in outside if byte in _STEPS), default=0)
