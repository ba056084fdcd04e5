"""Progress of an item whose work is stated beforehand, told as it is done. The unit is one window through one layer, or what
takes as long.
"""

from __future__ import annotations

from collections.abc import Callable

from allocator.profiling.cost import WORK
from allocator.stages.pipeline import StageContext


class Telling:
    """What of ``total`` is done."""

    def __init__(self, context: StageContext, total: int = 0) -> None:
        self.total = total
        self._context, self._done = context, 0.0

    def add(self, windows: float) -> None:
        """So much more is done."""
        self._tell(self._done + windows)

    def steps(self, work: float, count: int) -> Callable[[], None]:
        """To be called after each of so many steps, which take ``work`` together."""
        return lambda: self.add(work / max(count, 1))

    def share(self, work: float) -> Callable[[int, int], None]:
        """To be called as (done, total) of what takes ``work``, from now on."""
        begun = self._done
        return lambda done, total: self._tell(begun + work * done / total)

    def _tell(self, done: float) -> None:
        self._done = done
        self._context.progress(min(round(done), self.total), self.total, WORK)
