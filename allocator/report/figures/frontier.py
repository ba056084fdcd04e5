"""A frontier's picture: loss against the limit of one metric, or a map of two."""

from __future__ import annotations

from allocator.plan.documents.frontier import Frontier
from allocator.report.figures.drawing import Drawing, colour
from allocator.report.figures.figure import Figure
from allocator.report.figures.panel import Axis, Panel, colour_legend
from allocator.report.units import amount, nats

_WIDTH, _HEIGHT = 560, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 80, 46
_UNPROVEN = "not proven within 1e-4"
_PLOT_W, _PLOT_H = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


def frontier(document: Frontier, *, here: int | None = None) -> Figure:
    """Least predicted loss on a logarithmic scale, or in colour, at every limit; what is not proven is red.

    Args:
        here: a limit of the first metric to mark with a line.
    """
    model = document.model.reference.split(":", 1)[-1]
    title = f"{model}: least predicted loss, nats/token"
    budgets = ", ".join(budget.text for budget in document.budgets)
    drawing = Drawing(_WIDTH, _HEIGHT, f"{title}; {budgets}" if budgets else title)
    drawing.text(20, 26, title, "ink title")
    if budgets:
        drawing.text(20, 43, budgets, "faint")
    if not document.proven:
        drawing.text(20, 58, f"red: {_UNPROVEN}", "alarm")
    (_surface if len(document.metrics) == 2 else _curve)(drawing, document, here)
    head = [
        *(f"Limit of {_axis(document, axis)}" for axis in range(len(document.metrics))),
        *("Loss, nats/token", "Proven gap", "Status"),
    ]
    rows = [
        [*(f"{limit:,}" for limit in point.limits), nats(point.loss_nats), f"{point.gap:.1e}", point.status]
        for point in document.points
    ]
    return Figure(title, drawing, head, rows)


def _curve(drawing: Drawing, document: Frontier, here: int | None) -> None:
    points, unit = document.points, document.metrics[0].unit
    across = Axis.linear(point.limits[0] for point in points)
    up = Axis.logarithmic(point.loss_nats for point in points)
    panel = Panel(drawing, up, _LEFT, _TOP, _PLOT_W, _PLOT_H)
    panel.frame("", across.labels(lambda n: amount(n, unit)), below=f"limit of {_axis(document, 0)}")
    if here is not None and points[0].limits[0] <= here <= points[-1].limits[0]:
        x = panel.at(across.share(here), 0)[0]
        drawing.line(x, panel.y, x, panel.bottom, "mark dashed")
    # The loss holds from a limit up to the next one.
    steps = [panel.at(across.share(points[0].limits[0]), points[0].loss_nats)]
    for point in points[1:]:
        x, y = panel.at(across.share(point.limits[0]), point.loss_nats)
        steps += [(x, steps[-1][1]), (x, y)]
    drawing.path(steps, "first", hover="least predicted loss")
    for point in points:
        x, y = panel.at(across.share(point.limits[0]), point.loss_nats)
        text = f"limit {amount(point.limits[0], unit)}: {nats(point.loss_nats)} nats/token"
        if point.proven:
            drawing.dot(x, y, 2, "first", hover=text)
        else:
            drawing.dot(x, y, 5, "alarm open", hover=f"{text}, {_UNPROVEN}: gap {point.gap:.1e}")


def _surface(drawing: Drawing, document: Frontier, _: int | None) -> None:
    points = document.points
    shade = Axis.logarithmic(point.loss_nats for point in points)
    columns, rows = (sorted({point.limits[axis] for point in points}) for axis in (0, 1))
    width, height = _PLOT_W / len(columns), _PLOT_H / len(rows)
    # What is not proven comes last, so that no neighbour covers its edge.
    for point in sorted(points, key=lambda point: not point.proven):
        x = _LEFT + columns.index(point.limits[0]) * width
        y = _TOP + _PLOT_H - (rows.index(point.limits[1]) + 1) * height
        limits = " and ".join(f"{limit:,}" for limit in point.limits)
        text = f"{limits}: {nats(point.loss_nats)} nats/token" + ("" if point.proven else f", {_UNPROVEN}")
        kind, fill = "" if point.proven else "doubt", colour(shade.share(point.loss_nats))
        drawing.rect(x, y, width + 0.2, height + 0.2, kind, fill=fill, hover=text)
    units = [axis.unit for axis in document.metrics]
    across, upwards = Axis.linear(columns), Axis.linear(rows)
    for share, label in across.labels(lambda n: amount(n, units[0])):
        x = _LEFT + width / 2 + share * (_PLOT_W - width)
        drawing.text(x, _HEIGHT - _BOTTOM + 14, label, "faint", anchor="middle")
    for share, label in upwards.labels(lambda n: amount(n, units[1])):
        y = _TOP + _PLOT_H - height / 2 - share * (_PLOT_H - height)
        drawing.text(_LEFT - 6, y + 4, label, "faint", anchor="end")
    drawing.text(
        _LEFT + _PLOT_W / 2, _HEIGHT - 10, f"limit of {_axis(document, 0)}", "faint", anchor="middle"
    )
    drawing.text(20, _TOP - 6, f"up: limit of {_axis(document, 1)}", "faint")
    colour_legend(drawing, shade, _WIDTH - 180 - _RIGHT, _TOP - 32, 180)


def _axis(document: Frontier, axis: int) -> str:
    metric = document.metrics[axis]
    return f"{metric.metric} ({metric.unit})"
