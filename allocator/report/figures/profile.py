"""A profile as pictures: a heat map of layers and components, and loss against rank."""

from __future__ import annotations

from collections.abc import Sequence

from allocator.base.errors import InvalidInput
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import Form, mark, shown
from allocator.plan.model.ranks import Ranks
from allocator.plan.queries import removals
from allocator.report.figures.drawing import Drawing, colour, ink_on
from allocator.report.figures.figure import Figure
from allocator.report.figures.panel import Axis, Panel, colour_legend, names
from allocator.report.units import nats

TITLES: dict[Component, str] = {"qk": "QK", "ov": "OV", "mlp": "MLP"}
SCALES = ("log", "linear")
_ROWS = 40
"""Layers below each other in the heat map, before another block begins at its right."""
_CELL_W, _CELL_H, _MARGIN, _NAME_W, _NARROWEST = 76, 19, 20, 34, 460


def heatmap(profile: Profile, *, remove: float = 0.2) -> Figure:
    """Layers by components, coloured by log10 of the loss of removing this fraction of the component's rank alone.

    Raises:
        InvalidInput: ``remove`` is not between 0 and 1.
    """
    possible, out_of_reach = removals(profile, remove=remove)
    layers = profile.model.geometry.layers
    at = {(removal.layer, removal.component): removal for removal in possible}
    of_latents = {(curve.layer, curve.component) for curve in profile.curves if curve.cut_form}
    stuck = {(row.layer, row.component) for row in out_of_reach}
    shade = Axis.logarithmic(removal.loss_nats for removal in possible)
    blocks = -(-layers // _ROWS)
    per_block = -(-layers // blocks)
    block_w, top = _NAME_W + 3 * _CELL_W + 2 * _MARGIN, 118
    width = max(2 * _MARGIN + blocks * block_w, _NARROWEST)
    title = f"Sensitivity: {_name(profile)}"
    drawing = Drawing(width, top + per_block * _CELL_H + _MARGIN, title)
    drawing.text(_MARGIN, 26, title, "ink title")
    what = f"loss in nats/token of removing {100 * remove:g} % of one component's rank alone"
    drawing.text(_MARGIN, 44, what, "faint")
    colour_legend(drawing, shade, _MARGIN, 54, 380)
    rows = []
    for layer in range(layers):
        left = _MARGIN + layer // per_block * block_w + _NAME_W
        y = top + layer % per_block * _CELL_H
        if layer % per_block == 0:
            for column, component in enumerate(COMPONENTS):
                middle = left + (column + 0.5) * _CELL_W
                drawing.text(middle, top - 7, TITLES[component], "ink strong", anchor="middle")
        drawing.text(left - 8, y + 13, str(layer), "faint", anchor="end")
        cells = []
        for column, component in enumerate(COMPONENTS):
            x, where = left + column * _CELL_W, f"layer {layer} {TITLES[component]}"
            removal = at.get((layer, component))
            if removal is None:
                uncut = "heads stay whole" if (layer, component) in of_latents else "stays whole"
                why = "its smallest rank is larger" if (layer, component) in stuck else uncut
                drawing.rect(x, y, _CELL_W - 1, _CELL_H - 1, "void", hover=f"{where}: {why}")
                drawing.text(x + _CELL_W / 2, y + 13, "–", "faint", anchor="middle")
                cells.append(why)
                continue
            loss, share = removal.loss_nats, shade.share(removal.loss_nats)
            text = f"{where}: rank {removal.from_rank} to {removal.rank} loses {loss:.4g} nats/token"
            drawing.rect(x, y, _CELL_W - 1, _CELL_H - 1, fill=colour(share), hover=text)
            cells.append(f"{loss:.1e}" if loss else "0")
            drawing.text(x + _CELL_W / 2, y + 13, cells[-1], "", anchor="middle", fill=ink_on(share))
        rows.append([str(layer), *cells])
    return Figure(title, drawing, ["Layer", *(f"{TITLES[c]}, nats/token" for c in COMPONENTS)], rows)


def curves(
    profile: Profile,
    *,
    scale: str = "log",
    layer: int | None = None,
    component: Component | None = None,
    chosen: Ranks | None = None,
) -> Figure:
    """Loss against kept rank, one panel per layer, all on the same axes: measured points with their standard error as dots,
    the interpolated curve as a line.

    Args:
        layer: this one alone.
        component: this one alone.
        chosen: a plan's ranks, to be marked with rings.

    Raises:
        InvalidInput: unknown ``scale``, or no such layer.
    """
    if scale not in SCALES:
        raise InvalidInput.of("scale", scale, " or ".join(SCALES))
    layers = profile.model.geometry.layers
    if layer is not None and not 0 <= layer < layers:
        raise InvalidInput.of("layer", str(layer), f"0 to {layers - 1}")
    drawn = [
        curve
        for curve in profile.curves
        if layer in (None, curve.layer) and component in (None, curve.component)
    ]
    shown = range(layers) if layer is None else [layer]
    columns = min(len(shown), 8 if len(shown) > 24 else 4)
    panel_w, panel_h = (640, 360) if len(shown) == 1 else (190 if columns == 8 else 240, 150)
    left, top = 66, 84
    width = max(left + columns * panel_w + _MARGIN, _NARROWEST)
    title = f"Loss against rank: {_name(profile)}"
    drawing = Drawing(width, top + -(-len(shown) // columns) * panel_h + _MARGIN, title)
    drawing.text(_MARGIN, 26, title, "ink title")
    what = "change of KL around a plan" if profile.around else "KL to the dense model"
    text = f"{what}, nats/token, against kept rank; dots measured, with standard error"
    drawing.text(_MARGIN, 44, text + ("; rings: the plan" if chosen else ""), "faint")
    kinds = [kind for kind in COMPONENTS if component in (None, kind)]
    names(drawing, [(kind, TITLES[kind]) for kind in kinds], _MARGIN, 62)
    up = _losses_axis(drawn, scale)
    full = drawn[0].ranks[-1] if component is not None else None
    ticks = [(s, f"{100 * s:.0f} %" if full is None else f"{s * full:g}") for s in (0.0, 0.5, 1.0)]
    for index, number in enumerate(shown):
        x, y = left + index % columns * panel_w, top + index // columns * panel_h
        panel = Panel(drawing, up, x, y, panel_w - 22, panel_h - 42)
        panel.frame(f"layer {number}", ticks, numbers=index % columns == 0)
        for curve in drawn:
            if curve.layer == number:
                _curve(panel, curve)
                if chosen:
                    _ring(panel, curve, *chosen.at(number, curve.component))
    rows = [
        [
            f"layer {curve.layer} {TITLES[curve.component]}",
            f"{point.rank} of {curve.ranks[-1]}{mark(curve.cut_form)}",
            nats(point.loss_nats),
            nats(point.stderr_nats),
        ]
        for curve in drawn
        for point in curve.cut.measured
    ]
    head = ["Component", "Rank", "Measured loss, nats/token", "Standard error"]
    return Figure(title, drawing, head, rows)


def _losses_axis(drawn: Sequence[Curve], scale: str) -> Axis:
    values = [loss for curve in drawn for loss in curve.cut.loss_nats]
    points = [point for curve in drawn for point in curve.cut.measured]
    values += [point.loss_nats + point.stderr_nats for point in points]
    if scale == "log":
        return Axis.logarithmic(values)
    low = min([0.0, *(point.loss_nats for point in points)])
    return Axis.linear([low, max(values, default=0.0)])


def _curve(panel: Panel, curve: Curve) -> None:
    full, kind, up = curve.ranks[-1], curve.component, panel.up
    where, cut = f"layer {curve.layer} {TITLES[kind]}{mark(curve.cut_form)}", curve.cut
    reached = sum(up.reaches(loss) for loss in cut.loss_nats)  # losses fall: the first ones
    shown = zip(cut.ranks[: reached + 1], cut.loss_nats[: reached + 1], strict=True)
    line = [panel.at(rank / full, loss) for rank, loss in shown]
    if reached and len(line) > 1:
        panel.drawing.path(line, kind, hover=where)
    for point in cut.measured:
        x, y = panel.at(point.rank / full, point.loss_nats)
        ends = [panel.at(0, point.loss_nats + sign * point.stderr_nats)[1] for sign in (1, -1)]
        panel.drawing.line(x, ends[0], x, ends[1], kind)
        text = f"{where}, rank {point.rank} of {full}: {point.loss_nats:.4g} ± {point.stderr_nats:.2g} nats/token"
        panel.drawing.dot(x, y, 2.2, kind if up.reaches(point.loss_nats) else f"{kind} open", hover=text)


def _ring(panel: Panel, curve: Curve, rank: int, form: Form) -> None:
    """A mark at the rank and form that a plan gives the component."""
    loss = curve.loss_at(rank, form)
    x, y = panel.at(rank / curve.ranks[-1], loss)
    text = f"layer {curve.layer} {TITLES[curve.component]}: the plan's rank {shown(rank, form)}, {nats(loss)} nats/token"
    panel.drawing.dot(x, y, 5, f"{curve.component} chosen", hover=text)


def _name(profile: Profile) -> str:
    return profile.model.reference.split(":", 1)[-1]
