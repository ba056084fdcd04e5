"""The frame of a plot: axes, ticks, and where values lie between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from allocator.report.figures.drawing import Drawing

_DECADES = 6
"""How far below the largest value a logarithmic axis reaches."""
_TICKS = 6
_FEW_DECADES = 2.5
"""An axis of fewer has ticks at 2 and 5 too."""
_BAR = 12


@dataclass(frozen=True)
class Axis:
    """Values to shares of the axis's length: 0 at its beginning, 1 at its end. ``low`` and ``high`` are log10 where ``log``."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def logarithmic(cls, values: Iterable[float]) -> Axis:
        """From the smallest positive value that is shown to the largest; at least one decade, at most six."""
        logs = [math.log10(value) for value in values if value > 0]
        high = max(logs, default=0.0)
        low = max(min(logs, default=high - 1), high - _DECADES)
        return cls(min(low, high - 1), high, log=True)

    @classmethod
    def linear(cls, values: Iterable[float]) -> Axis:
        """From the smallest value to the largest."""
        shown = list(values) or [0.0]
        low, high = min(shown), max(shown)
        return cls(low, high if high > low else low + 1.0)

    def share(self, value: float) -> float:
        """Clipped to the axis; a value that a logarithm cannot show lies at its beginning."""
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def reaches(self, value: float) -> bool:
        """Whether the value has a place of its own on a logarithmic axis; a line to one that has none ends at the beginning."""
        return not self.log or (value > 0 and math.log10(value) >= self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Value and label of each tick."""
        if self.log:
            digits = (1, 2, 5) if self.high - self.low < _FEW_DECADES else (1,)
            decades = range(math.floor(self.low), math.floor(self.high) + 1)
            ticks = [(digit * 10.0**n, f"{digit}e{n}") for n in decades for digit in digits]
            return [(value, label) for value, label in ticks if self.low <= math.log10(value) <= self.high]
        span = self.high - self.low
        size = 10.0 ** math.floor(math.log10(span))
        step = next(step for step in (size / 5, size / 2, size, 2 * size) if span / step <= _TICKS)
        places = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(n * step, f"{n * step:.3g}") for n in places]

    def labels(self, write: Callable[[float], str]) -> list[tuple[float, str]]:
        """(share, label) of each tick, written by ``write``."""
        return [(self.share(value), write(value)) for value, _ in self.ticks()]


@dataclass(frozen=True)
class Panel:
    """A plot inside a drawing, in its pixels: shares of the width go right, values of ``up`` go up."""

    drawing: Drawing
    up: Axis
    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def at(self, share: float, value: float) -> tuple[float, float]:
        """The pixel at a share of the width and a value."""
        return self.x + share * self.width, self.bottom - self.up.share(value) * self.height

    def frame(
        self,
        title: str,
        across: Iterable[tuple[float, str]] = (),
        *,
        below: str = "",
        numbers: bool = True,
        write: Callable[[float], str] | None = None,
    ) -> None:
        """Axes and grid.

        Args:
            across: (share of the width, label) of each tick.
            below: what the horizontal axis is.
            numbers: whether the vertical axis has them.
            write: the text of a value; default: as ``Axis.ticks`` has it.
        """
        right, draw = self.x + self.width, self.drawing
        draw.text(self.x, self.y - 6, title, "ink strong")
        for value, label in self.up.ticks():
            level = self.at(0, value)[1]
            draw.line(self.x, level, right, level, "grid")
            if numbers:
                draw.text(self.x - 6, level + 4, write(value) if write else label, "faint", anchor="end")
        for share, label in across:
            anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
            draw.text(self.x + share * self.width, self.bottom + 14, label, "faint", anchor=anchor)
        if below:
            draw.text(self.x + self.width / 2, self.bottom + 30, below, "faint", anchor="middle")
        draw.line(self.x, self.bottom, right, self.bottom, "axis")
        draw.line(self.x, self.y, self.x, self.bottom, "axis")

    def bar(
        self, share: float, width: float, value: float, kind: str, *, hover: str, label: str = ""
    ) -> None:
        """From zero, or where the axis begins above it, to ``value``; ``width`` in pixels, its left edge at ``share``."""
        left, top = self.at(share, value)
        zero = self.at(share, 0.0)[1]
        self.drawing.rect(left, min(top, zero), width, abs(zero - top), kind, hover=hover)
        if label:
            self.drawing.text(left + width / 2, min(top, zero) - 3, label, "ink", anchor="middle")


def colour_legend(drawing: Drawing, axis: Axis, x: float, y: float, width: float) -> None:
    """The colours of ``drawing.colour`` along a logarithmic axis."""
    drawing.colour_bar(x, y, width, _BAR)
    for value, label in axis.ticks():
        at = x + width * axis.share(value)
        drawing.line(at, y + _BAR, at, y + _BAR + 4, "axis")
        drawing.text(at, y + _BAR + 16, label, "faint", anchor="middle")


def names(drawing: Drawing, kinds: Iterable[tuple[str, str]], x: float, y: float) -> None:
    """A line of (class, name) with a square in each one's colour, ``y`` its baseline."""
    for kind, name in kinds:
        drawing.rect(x, y - 9, 10, 10, kind)
        drawing.text(x + 15, y, name)
        x += 15 + 6.5 * len(name) + 18
