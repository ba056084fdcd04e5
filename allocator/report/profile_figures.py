"""A profile as pictures: a heat map of layers and components, and loss against rank. SVG that stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.model.curves import Curve
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.queries import removals
from allocator.report.svg import Drawing, colour, ink_on

TITLES: dict[Component, str] = {"qk": "QK", "ov": "OV", "mlp": "MLP"}
SCALES = ("log", "linear")
_ROWS = 40
"""Layers below each other in the heat map, before another block begins at its right."""
_DECADES = 6
"""How far below the largest loss a logarithmic scale reaches."""
_TICKS = 6
_CELL_W, _CELL_H, _MARGIN, _NAME_W = 76, 19, 20, 34


def heatmap_svg(profile: dict[str, Any], *, remove: float = 0.2) -> str:
    """Layers by components, coloured by log10 of the loss of removing this fraction of the component's rank alone.

    Raises:
        InvalidInput: ``remove`` is not between 0 and 1.
    """
    found, out_of_reach = removals(profile, remove=remove)
    geometry = Geometry.from_document(profile["model"]["geometry"])
    at = {(each.layer, each.component): each for each in found}
    stuck = {(each["layer"], each["component"]) for each in out_of_reach}
    low, high = _log_range([each.loss_nats for each in found])
    blocks = -(-geometry.layers // _ROWS)
    rows = -(-geometry.layers // blocks)
    block_w, top = _NAME_W + 3 * _CELL_W + 2 * _MARGIN, 118
    width = max(2 * _MARGIN + blocks * block_w, 460)
    drawing = Drawing(width, top + rows * _CELL_H + _MARGIN, f"Sensitivity of {_name(profile)}")
    drawing.text(_MARGIN, 26, f"Sensitivity: {_name(profile)}", "ink title")
    drawing.text(
        _MARGIN,
        44,
        f"loss in nats/token of removing {100 * remove:g} % of one component's rank alone",
        "faint",
    )
    _legend(drawing, _MARGIN, 54, 380, low, high)
    for block in range(blocks):
        left = _MARGIN + block * block_w + _NAME_W
        for column, component in enumerate(COMPONENTS):
            centre = left + (column + 0.5) * _CELL_W
            drawing.text(centre, top - 7, TITLES[component], "ink strong", anchor="middle")
        for row, layer in enumerate(range(block * rows, min((block + 1) * rows, geometry.layers))):
            y = top + row * _CELL_H
            drawing.text(left - 8, y + 13, str(layer), "faint", anchor="end")
            for column, component in enumerate(COMPONENTS):
                x, where = left + column * _CELL_W, f"layer {layer} {TITLES[component]}"
                removal = at.get((layer, component))
                if removal is None:
                    why = "its smallest rank is larger" if (layer, component) in stuck else "stays whole"
                    drawing.rect(x, y, _CELL_W - 1, _CELL_H - 1, "void", hover=f"{where}: {why}")
                    drawing.text(x + _CELL_W / 2, y + 13, "–", "faint", anchor="middle")
                    continue
                loss = removal.loss_nats
                share = (math.log10(loss) - low) / (high - low) if loss > 0 else 0.0
                told = f"{where}: rank {removal.from_rank} to {removal.rank} loses {loss:.4g} nats/token"
                drawing.rect(x, y, _CELL_W - 1, _CELL_H - 1, fill=colour(share), hover=told)
                shown = f"{loss:.1e}" if loss else "0"
                drawing.text(x + _CELL_W / 2, y + 13, shown, "", anchor="middle", fill=ink_on(share))
    return drawing.render()


def curves_svg(
    profile: dict[str, Any],
    *,
    scale: str = "log",
    layer: int | None = None,
    component: Component | None = None,
) -> str:
    """Loss against kept rank, one panel per layer, all on the same axes: measured points with their standard error as dots,
    the interpolated curve as a line. ``layer`` and ``component`` show one alone.

    Raises:
        InvalidInput: unknown ``scale``, or no such layer.
    """
    if scale not in SCALES:
        raise _refusal("scale", scale, " or ".join(SCALES))
    layers = Geometry.from_document(profile["model"]["geometry"]).layers
    if layer is not None and not 0 <= layer < layers:
        raise _refusal("layer", str(layer), f"0 to {layers - 1}")
    chosen = [
        curve
        for curve in map(Curve.from_document, profile["curves"])
        if layer in (None, curve.layer) and component in (None, curve.component)
    ]
    shown = range(layers) if layer is None else [layer]
    columns = min(len(shown), 8 if len(shown) > 24 else 4)
    panel_w, panel_h = (640, 360) if len(shown) == 1 else (190 if columns == 8 else 240, 150)
    axis = _Axis.over(chosen, scale)
    left, top = 66, 84
    size = (
        left + columns * panel_w + _MARGIN,
        top + -(-len(shown) // columns) * panel_h + _MARGIN,
    )
    drawing = Drawing(max(size[0], 460), size[1], f"Loss against rank of {_name(profile)}")
    drawing.text(_MARGIN, 26, f"Loss against rank: {_name(profile)}", "ink title")
    what = "change of KL around a plan" if profile.get("around") else "KL to the dense model"
    drawing.text(
        _MARGIN, 44, f"{what}, nats/token, against kept rank; dots measured, with standard error", "faint"
    )
    full = chosen[0].ranks[-1] if component is not None else None
    kinds = [kind for kind in COMPONENTS if component in (None, kind)]
    for index, kind in enumerate(kinds):
        drawing.rect(_MARGIN + 60 * index, 53, 10, 10, kind)
        drawing.text(_MARGIN + 60 * index + 15, 62, TITLES[kind])
    for index, number in enumerate(shown):
        x, y = left + index % columns * panel_w, top + index // columns * panel_h
        panel = _Panel(drawing, axis, x, y, panel_w - 22, panel_h - 42)
        panel.frame(f"layer {number}", labels=index % columns == 0, full=full)
        for curve in chosen:
            if curve.layer == number:
                panel.curve(curve)
    return drawing.render()


@dataclass(frozen=True)
class _Axis:
    """Losses to a height between 0 (bottom) and 1."""

    log: bool
    low: float
    high: float

    @classmethod
    def over(cls, curves: Sequence[Curve], scale: str) -> _Axis:
        values = [loss for curve in curves for loss in curve.loss_nats]
        for curve in curves:
            values += [point.loss_nats + point.stderr_nats for point in curve.measured]
        if scale == "log":
            return cls(True, *_log_range(values))
        low = min([0.0, *(point.loss_nats for curve in curves for point in curve.measured)])
        high = max(values, default=0.0)
        return cls(False, low, high if high > low else low + 1.0)

    def height(self, loss: float) -> float:
        """Clipped to the axis; a loss that a logarithm cannot show lies on its bottom."""
        if self.log:
            loss = math.log10(loss) if loss > 0 else self.low
        return min(max((loss - self.low) / (self.high - self.low), 0.0), 1.0)

    def reaches(self, loss: float) -> bool:
        """Whether the loss has a height of its own; a line to one that has none ends on the bottom."""
        return not self.log or (loss > 0 and math.log10(loss) >= self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """(height, label) of each."""
        if self.log:
            return [(self.height(10.0**n), f"1e{n}") for n in _decades(self.low, self.high)]
        span = self.high - self.low
        size = 10.0 ** math.floor(math.log10(span))
        step = next(each for each in (size / 5, size / 2, size, 2 * size) if span / each <= _TICKS)
        places = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.height(n * step), f"{n * step:.3g}") for n in places]


@dataclass(frozen=True)
class _Panel:
    drawing: Drawing
    axis: _Axis
    x: float
    y: float
    width: float
    height: float

    def frame(self, title: str, *, labels: bool, full: int | None) -> None:
        """Axes; the rank in numbers where ``full`` says what it is, in percent where several kinds share the panel."""
        bottom = self.y + self.height
        self.drawing.text(self.x, self.y - 5, title, "ink strong")
        for height, label in self.axis.ticks():
            level = bottom - height * self.height
            self.drawing.line(self.x, level, self.x + self.width, level, "grid")
            if labels:
                self.drawing.text(self.x - 6, level + 4, label, "faint", anchor="end")
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            label = f"{100 * share:.0f} %" if full is None else f"{share * full:g}"
            self.drawing.text(self.x + share * self.width, bottom + 14, label, "faint", anchor=anchor)
        self.drawing.line(self.x, bottom, self.x + self.width, bottom, "axis")
        self.drawing.line(self.x, self.y, self.x, bottom, "axis")

    def curve(self, curve: Curve) -> None:
        full, kind, where = curve.ranks[-1], curve.component, f"layer {curve.layer} {TITLES[curve.component]}"
        shown = sum(self.axis.reaches(loss) for loss in curve.loss_nats)  # losses fall: the first ones
        points = [
            self._place(rank / full, loss)
            for rank, loss in zip(curve.ranks[: shown + 1], curve.loss_nats[: shown + 1], strict=True)
        ]
        if shown and len(points) > 1:
            self.drawing.path(points, kind, hover=where)
        for point in curve.measured:
            x, y = self._place(point.rank / full, point.loss_nats)
            ends = [self._place(0, point.loss_nats + sign * point.stderr_nats)[1] for sign in (1, -1)]
            self.drawing.line(x, ends[0], x, ends[1], kind)
            told = (
                f"{where}, rank {point.rank} of {full}: "
                f"{point.loss_nats:.4g} ± {point.stderr_nats:.2g} nats/token"
            )
            self.drawing.dot(
                x, y, 2.2, kind if self.axis.reaches(point.loss_nats) else f"{kind} open", hover=told
            )

    def _place(self, share: float, loss: float) -> tuple[float, float]:
        height = self.axis.height(loss)
        return self.x + share * self.width, self.y + (1 - height) * self.height


def _name(profile: dict[str, Any]) -> str:
    reference: str = profile["model"]["reference"]
    return reference.split(":", 1)[-1]


def _log_range(losses: Sequence[float]) -> tuple[float, float]:
    """log10 from the smallest loss that is shown to the largest; at least one decade."""
    logs = [math.log10(loss) for loss in losses if loss > 0]
    high = max(logs, default=0.0)
    low = max(min(logs, default=high - 1), high - _DECADES)
    return min(low, high - 1), high


def _decades(low: float, high: float) -> range:
    return range(math.ceil(low), math.floor(high) + 1)


def _legend(drawing: Drawing, x: float, y: float, width: float, low: float, high: float) -> None:
    drawing.colour_bar(x, y, width, 12)
    for n in _decades(low, high):
        at = x + width * (n - low) / (high - low)
        drawing.line(at, y + 12, at, y + 16, "axis")
        drawing.text(at, y + 28, f"1e{n}", "faint", anchor="middle")


def _refusal(field: str, found: str, allowed: str) -> InvalidInput:
    return InvalidInput(f"{field}: {found!r} is not {allowed}", fields=[FieldError(field, found, allowed)])
