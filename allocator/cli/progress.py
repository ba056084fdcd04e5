"""A job's progress in the terminal: one bar per stage, events above it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SHOWN = (
    "model.read",
    "profile.",
    "plan.",
    "checkpoint.written",
    "heal.done",
    "item.lost",
    "item.retry",
    "job.failed",
    "job.crashed",
)


class JobProgress:
    """Draws ``job_document`` and its events; quiet where standard error is not a terminal, apart from key events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> JobProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, job: dict[str, Any], events: list[dict[str, Any]]) -> None:
        """Show the newest state of a job and the events since the last call."""
        for event in events:
            if event["type"].startswith(_SHOWN):
                self._bars.console.print(f"  [dim]{escape(event['message'])}[/dim]", soft_wrap=True)
        stage, progress = job["stage"], job["progress"]
        if stage is None or progress is None:
            return
        if stage not in self._tasks:
            self._finish_others()
            self._tasks[stage] = self._bars.add_task(stage, total=progress["total"], unit=progress["unit"])
        self._bars.update(
            self._tasks[stage], completed=progress["done"], total=progress["total"], unit=progress["unit"]
        )
        if job["state"] == "succeeded":
            self._finish_others()

    def _finish_others(self) -> None:
        for task in self._bars.tasks:
            if task.total is not None:
                self._bars.update(task.id, completed=task.total)
