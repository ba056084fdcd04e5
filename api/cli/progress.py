"""Progress on standard error: one bar per stage where that is a terminal, plain lines where it is not; events above."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from allocator.store.states import SUCCEEDED
from api.cli.lines import PlainLines
from api.web.pace import Pace, left_text

if TYPE_CHECKING:
    from allocator.jobs.document import EventDocument, JobDocument

_SHOWN_EVENTS = (
    "model.",
    "text.read",
    "budgets.read",
    "profile.",
    "plan.",
    "checkpoint.written",
    "heal.done",
    "item.lost",
    "item.retry",
    "job.failed",
    "job.crashed",
)
_WARNING_EVENTS = ("evaluation.seen",)
_TICK_S = 1.0


class Stages(Protocol):
    """The drawing of stages of something long, by bars or lines."""

    def update(self, stage: str, done: int, total: int, unit: str, *, waiting: str | None = None) -> None:
        """The newest counts; ``total`` 0 is not known yet. ``waiting``: why nobody works on the stage."""

    def done(self) -> None:
        """The present stage has ended well."""


@contextmanager
def stages_shown(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Stages]:
    """Bars on a terminal that can move its cursor, else plain lines; nothing on a console that is quiet."""
    if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
        bars = Bars(console, clock)
        with bars.progress:
            yield bars
        return
    lines = PlainLines(lambda line: console.print(line, soft_wrap=True, markup=False), clock)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(_TICK_S):
            lines.tick()

    # What runs in this process tells nothing for as long as one of its steps takes.
    ticking = threading.Thread(target=tick, name="progress", daemon=True)
    ticking.start()
    try:
        yield lines
    finally:
        stop.set()
        ticking.join()


@contextmanager
def counted(console: Console, name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows one thing that is counted, by ``(done, total)``; until the first count it prepares."""
    with stages_shown(console) as stages:
        stages.update(name, 0, 0, unit, waiting="preparing")
        yield lambda done, total: stages.update(name, done, total, unit)
        stages.done()


@contextmanager
def job_progress(
    console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[JobDocument, list[EventDocument]], None]]:
    """Shows a job: what is yielded takes its newest document and the events since the last call."""
    with stages_shown(console, clock) as stages:

        def update(job: JobDocument, events: list[EventDocument]) -> None:
            for event in events:
                if event.type in _WARNING_EVENTS:
                    console.print(f"[yellow]warning:[/yellow] {escape(event.message)}", soft_wrap=True)
                elif event.type.startswith(_SHOWN_EVENTS):
                    console.print(f"  [dim]{escape(event.message)}[/dim]", soft_wrap=True)
            stage, progress = job.stage, job.progress
            if stage is None or progress is None:
                return
            stages.update(stage, progress.done, progress.total, progress.unit, waiting=job.queue_reason)
            if job.state == SUCCEEDED:
                stages.done()

        yield update


class Bars:
    """A bar per stage, those before full."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=20),  # with all that follows 80 columns are full
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            _LeftColumn(clock),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}

    def update(self, stage: str, done: int, total: int, unit: str, *, waiting: str | None = None) -> None:
        now, share = self._clock(), done / total if total else 0.0
        if stage not in self._tasks:
            self.done()
            self._paces[stage] = pace = Pace(share, now)
            self._tasks[stage] = self.progress.add_task(stage, total=total or None, unit=unit, pace=pace)
        self._paces[stage].see(share, now, waiting=waiting is not None)
        self.progress.update(self._tasks[stage], completed=done, total=total or None, unit=unit)

    def done(self) -> None:
        for task in self.progress.tasks:
            if task.total is not None:
                self.progress.update(task.id, completed=task.total)


class _LeftColumn(ProgressColumn):
    """The time left, as the plain lines have it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        left = None if task.finished else task.fields["pace"].left_s(self._clock())
        return Text(left_text(left), style="progress.remaining")
