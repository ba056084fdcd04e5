"""An item may take any time as long as it moves; one that does not is ended."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from allocator.jobs.machine import heartbeat
from allocator.jobs.machine.heartbeat import STALLED, Heartbeat
from allocator.jobs.machine.tasks import ItemStalled, _stalled

ITEM: Any = SimpleNamespace(id="1", job_id="j", attempt=1, stage="profile", key="layer-0")


class QuietStore:
    """Every lease is renewed."""

    def __init__(self) -> None:
        self.items = SimpleNamespace(renew=lambda *arguments: True)
        self.jobs = SimpleNamespace(state=lambda job: "running")

    def transaction(self) -> Any:
        return threading.Lock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds, for everybody who asks in this module's subject."""
    now = [0.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    before = signal.signal(STALLED, _stalled)
    yield now
    signal.signal(STALLED, before)


def beats() -> None:
    time.sleep(0.1)  # several of them


def test_work_that_moves_has_no_limit(clock: list[float]) -> None:
    with Heartbeat(QuietStore(), ITEM, 0.03, stalled_s=10) as beat:  # type: ignore[arg-type]
        for _ in range(5):
            clock[0] += 9
            beats()
            beat.moved()
        assert clock[0] == 45


def test_work_that_does_not_is_ended(clock: list[float]) -> None:
    def work() -> None:
        with Heartbeat(QuietStore(), ITEM, 0.03, stalled_s=10):  # type: ignore[arg-type]
            clock[0] = 11
            beats()

    with pytest.raises(ItemStalled, match="no progress"):
        work()


def test_without_a_limit_nothing_is_ended(clock: list[float]) -> None:
    with Heartbeat(QuietStore(), ITEM, 0.03):  # type: ignore[arg-type]
        clock[0] = 1e6
        beats()


def test_what_does_not_listen_is_killed_a_minute_later(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(
        heartbeat, "os", SimpleNamespace(kill=lambda pid, number: sent.append(number), getpid=lambda: 0)
    )
    with Heartbeat(QuietStore(), ITEM, 0.03, stalled_s=10):  # type: ignore[arg-type]
        clock[0] = 11
        beats()
        assert sent == [STALLED]
        clock[0] = 72
        beats()
    assert sent[1] == signal.SIGKILL
