"""Following a job by asking: every event is told, once, whatever the order in which state and events change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from allocator.jobs.document import EventDocument, JobDocument
from allocator.jobs.polling import polled_updates
from tests.support.jobs import shown_event, shown_job


class _Job:
    """A job with so many events; more happen between any two questions. It ends with its last event."""

    def __init__(self, total: int, happening: list[int], page: int) -> None:
        self.total, self.happening, self.page, self.there = total, happening, page, 0

    def _time_passes(self) -> None:
        self.there = min(self.total, self.there + (self.happening.pop() if self.happening else self.total))

    def document(self) -> JobDocument:
        self._time_passes()
        return shown_job(state="succeeded" if self.there == self.total else "running")

    def events(self, after: int) -> list[EventDocument]:
        self._time_passes()
        return [shown_event(seq) for seq in range(after + 1, min(self.there, after + self.page) + 1)]


@given(
    total=st.integers(0, 40),
    happening=st.lists(st.integers(0, 6), max_size=30),
    page=st.integers(1, 50),
    after=st.integers(0, 45),
)
def test_every_event_is_told_once_and_the_last_document_is_the_end(
    total: int, happening: list[int], page: int, after: int
) -> None:
    job = _Job(total, happening, page)
    told = list(polled_updates(job.document, job.events, after=after, poll_s=0))
    assert [event.seq for _, events in told for event in events] == list(range(after + 1, total + 1))
    assert told[-1][0].state == "succeeded"
