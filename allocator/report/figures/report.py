"""The pictures of a finished job: losses, budgets and ranks, of its ``report.json``."""

from __future__ import annotations

from typing import Any

from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import form_of, shown
from allocator.report.figures.drawing import Drawing
from allocator.report.figures.figure import Figure
from allocator.report.figures.panel import Axis, Panel, names
from allocator.report.figures.profile import TITLES
from allocator.report.rows import DENSE, rows_of
from allocator.report.units import nats, percent

_LEFT, _MARGIN, _NARROWEST = 64, 20, 460
_LOSSES = {
    "first": ("predicted_loss_nats", "predicted"),
    "second": ("measured_loss_nats", "measured KL"),
    "third": ("evaluation_rise_nats", "rise on evaluation text"),
}
"""Class -> (key of a report's row, name)."""
_BAR_W, _GROUP_GAP = 50, 24
_LINE = 34
_ABOVE_BARS = 1.15
"""Room for a bar's number."""
_LABELLED = 40
"""Layers whose bars have room for numbers."""


def losses(report: dict[str, Any]) -> Figure:
    """Predicted and measured KL and the rise on evaluation text, for each allocation at the same budgets; healed last."""
    title = "Predicted and measured loss"
    shown_rows = [row for row in rows_of(report) if row.name != DENSE]
    group = len(_LOSSES) * _BAR_W + _GROUP_GAP
    width, height = max(len(shown_rows) * group, 360), 240
    drawing = Drawing(_LEFT + width + _MARGIN, height + 80, title)
    names(drawing, [(kind, name) for kind, (_, name) in _LOSSES.items()], _LEFT, 22)
    values = [report[row.name][key] or 0.0 for row in shown_rows for key, _ in _LOSSES.values()]
    panel = Panel(drawing, Axis.linear([0.0, *values, _ABOVE_BARS * max(values)]), _LEFT, 56, width, height)
    spots = [(row, (n + 0.5) / len(shown_rows)) for n, row in enumerate(shown_rows)]
    panel.frame("nats/token", [(spot, row.title) for row, spot in spots])
    for row, spot in spots:
        left = spot - (len(_LOSSES) * _BAR_W / 2) / width
        for index, (kind, (key, label)) in enumerate(_LOSSES.items()):
            value = report[row.name][key]
            if value is not None:
                told = f"{row.title}, {label}: {nats(value)} nats/token"
                panel.bar(
                    left + index * _BAR_W / width, _BAR_W - 4, value, kind, hover=told, label=nats(value)
                )
    head = ["Allocation", *(f"{name}, nats/token" for _, name in _LOSSES.values())]
    rows = [[row.title, *(nats(report[row.name][key]) for key, _ in _LOSSES.values())] for row in shown_rows]
    return Figure(title, drawing, head, rows)


def budgets(rows: list[dict[str, Any]]) -> Figure:
    """How much of every budget the plan uses; binding ones red."""
    title = "What the plan uses of each budget"
    plot = 700
    drawing = Drawing(2 * _MARGIN + plot, 38 + len(rows) * _LINE, title)
    for number, row in enumerate(rows):
        share, y = row["used"] / row["limit"], 16 + number * _LINE
        told = f"{row['text']}: {row['used']:,} of {row['limit']:,} {row['unit']}, {percent(share)}"
        drawing.text(_MARGIN, y, told, "ink")
        kind = "alarm" if row["binding"] else "first"
        drawing.rect(_MARGIN, y + 5, min(share, 1.0) * plot, 9, kind, hover=told)
    drawing.line(_MARGIN + plot, 6, _MARGIN + plot, 14 + len(rows) * _LINE, "mark dashed")
    drawing.text(_MARGIN + plot, 30 + len(rows) * _LINE, "100 %; red: binding", "faint", anchor="end")
    head = ["Budget", "Used", "Limit", "Unit", "Share used", "Binding"]
    table = [
        [
            row["text"],
            f"{row['used']:,}",
            f"{row['limit']:,}",
            row["unit"],
            percent(row["used"] / row["limit"]),
            {True: "yes", False: "no"}.get(row["binding"], "unknown"),
        ]
        for row in rows
    ]
    return Figure(title, drawing, head, table)


def ranks(
    plan_ranks: list[dict[str, Any]], uniform: list[dict[str, Any]], full: dict[Component, int]
) -> Figure:
    """Kept share of every component's rank, layer by layer, against the uniform allocation (empty: there is none)."""
    title = "Ranks by layer"
    count = len(plan_ranks)
    labelled = count <= _LABELLED
    bar = 46 if count <= 12 else 30 if labelled else 12
    width, height = max(count * bar, _NARROWEST - _LEFT - _MARGIN), 90
    drawing = Drawing(_LEFT + width + _MARGIN, 20 + len(COMPONENTS) * (height + 52), title)
    step = 1 if labelled else 10
    for place, component in enumerate(COMPONENTS):
        panel = Panel(drawing, Axis(0.0, _ABOVE_BARS * 100), _LEFT, 30 + place * (height + 52), width, height)
        layers = [((n + 0.5) / count, str(row["layer"])) for n, row in enumerate(plan_ranks) if n % step == 0]
        panel.frame(f"{TITLES[component]}, % of rank {full[component]}", layers)
        for n, row in enumerate(plan_ranks):
            share = 100 * row[component] / full[component]
            label = shown(row[component], form_of(row, component))
            told = f"layer {row['layer']} {TITLES[component]}: {label} of {full[component]}"
            panel.bar(n / count, width / count - 3, share, component, hover=told)
            beside = 100 * uniform[n][component] / full[component] if uniform else 0.0
            if uniform:
                x, y = panel.at(n / count, beside)
                drawing.line(x - 1, y, x + width / count - 2, y, "mark")
            if labelled:
                x, y = panel.at((n + 0.5) / count, max(share, beside))
                drawing.text(x - 1.5, y - 3, label, "ink", anchor="middle")
    head = ["Layer", *(f"{TITLES[c]} of {full[c]}" for c in COMPONENTS)]
    head += [f"{TITLES[c]}, uniform" for c in COMPONENTS if uniform]
    table = [
        [
            str(row["layer"]),
            *(shown(row[c], form_of(row, c)) for c in COMPONENTS),
            *(str(uniform[n][c]) for c in COMPONENTS if uniform),
        ]
        for n, row in enumerate(plan_ranks)
    ]
    return Figure(title, drawing, head, table)
