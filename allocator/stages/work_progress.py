"""The progress of an item whose work is stated beforehand. The unit is one window through one layer, or what takes as long."""

from __future__ import annotations

from collections.abc import Callable

from allocator.profiling.work import WORK
from allocator.stages.pipeline import MeasuringContext


class WorkProgress:
    """How much of ``total`` is done, reported as it grows."""

    def __init__(self, context: MeasuringContext, total: int = 0) -> None:
        self.total = total
        self._context, self._done = context, 0.0

    def add(self, windows: float) -> None:
        """Report that so much more is done."""
        self.reach(self._done + windows)

    def steps(self, work: float, count: int) -> Callable[[], None]:
        """A function to call after each of ``count`` steps, which take ``work`` together."""
        return lambda: self.add(work / max(count, 1))

    def share(self, work: float) -> Callable[[int, int], None]:
        """A function to call with (done, total) while something that takes ``work`` goes on."""
        begun = self._done
        return lambda done, total: self.reach(begun + work * done / total)

    def reach(self, done: float) -> None:
        """Report that so much is done by now, skipped or not."""
        self._done = done
        self._context.progress(min(round(done), self.total), self.total, WORK)
