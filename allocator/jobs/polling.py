"""A job followed by asking: one loop for commands, which show its progress, and for clients whom no stream reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from allocator.jobs.document import EventDocument, JobDocument
from allocator.store.states import TERMINAL


def polled_updates(
    job: Callable[[], JobDocument],
    events: Callable[[int], list[EventDocument]],
    *,
    after: int = 0,
    poll_s: float,
) -> Iterator[tuple[JobDocument, list[EventDocument]]]:
    """The job's newest document and the events that are new since the last time, until it is over and all have been told.

    Args:
        job: answers its document.
        events: (a number) -> the events numbered above it, oldest first; perhaps not all at once.
        after: the number above which events begin.
    """
    while True:
        # The state first: the last events are then certain to be in the list.
        document = job()
        new = events(after)
        yield document, new
        if new:
            after = new[-1].seq
        over = document.state in TERMINAL
        if over and not new:
            return
        if not over:
            time.sleep(poll_s)
