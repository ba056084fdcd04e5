"""The pictures of a finished job: losses, budgets and ranks, of its ``report.json``."""

from __future__ import annotations

from collections.abc import Sequence

from allocator.plan.documents.plan import PlanBudget
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import shown
from allocator.plan.model.ranks import Ranks
from allocator.report.document import CutFigures, Report
from allocator.report.figures.drawing import Drawing
from allocator.report.figures.figure import Figure
from allocator.report.figures.panel import Axis, Panel, names
from allocator.report.figures.profile import TITLES
from allocator.report.units import nats, percent

_LEFT, _MARGIN, _NARROWEST = 64, 20, 460
_LOSSES = {
    "first": ("predicted_loss_nats", "predicted"),
    "second": ("measured_loss_nats", "measured KL"),
    "third": ("evaluation_rise_nats", "rise on evaluation text"),
}
"""Class -> (field of a model's figures, name)."""
_BAR_W, _GROUP_GAP = 50, 24
_LINE = 34
_ABOVE_BARS = 1.15
"""Room for a bar's number."""
_LABELLED = 40
"""Layers whose bars have room for numbers."""


def losses(report: Report) -> Figure:
    """Predicted and measured KL and the rise on evaluation text, for each allocation at the same budgets; healed last."""
    title = "Predicted and measured loss"
    models = [(row, figures) for row, figures in report.shown if isinstance(figures, CutFigures)]
    group = len(_LOSSES) * _BAR_W + _GROUP_GAP
    width, height = max(len(models) * group, 360), 240
    drawing = Drawing(_LEFT + width + _MARGIN, height + 80, title)
    names(drawing, [(kind, name) for kind, (_, name) in _LOSSES.items()], _LEFT, 22)
    values = [getattr(figures, loss) or 0.0 for _, figures in models for loss, _ in _LOSSES.values()]
    panel = Panel(drawing, Axis.linear([0.0, *values, _ABOVE_BARS * max(values)]), _LEFT, 56, width, height)
    spots = [(n + 0.5) / len(models) for n in range(len(models))]
    panel.frame("nats/token", [(spot, row.title) for spot, (row, _) in zip(spots, models, strict=True)])
    for spot, (row, figures) in zip(spots, models, strict=True):
        left = spot - (len(_LOSSES) * _BAR_W / 2) / width
        for index, (kind, (loss, label)) in enumerate(_LOSSES.items()):
            value = getattr(figures, loss)
            if value is not None:
                text = f"{row.title}, {label}: {nats(value)} nats/token"
                panel.bar(
                    left + index * _BAR_W / width, _BAR_W - 4, value, kind, hover=text, label=nats(value)
                )
    head = ["Allocation", *(f"{name}, nats/token" for _, name in _LOSSES.values())]
    rows = [
        [row.title, *(nats(getattr(figures, loss)) for loss, _ in _LOSSES.values())]
        for row, figures in models
    ]
    return Figure(title, drawing, head, rows)


def budgets(rows: Sequence[PlanBudget]) -> Figure:
    """How much of every budget the plan uses; binding ones red."""
    title = "What the plan uses of each budget"
    plot = 700
    drawing = Drawing(2 * _MARGIN + plot, 38 + len(rows) * _LINE, title)
    for number, row in enumerate(rows):
        share, y = row.used / row.limit, 16 + number * _LINE
        text = f"{row.text}: {row.used:,} of {row.limit:,} {row.unit}, {percent(share)}"
        drawing.text(_MARGIN, y, text, "ink")
        kind = "alarm" if row.binding else "first"
        drawing.rect(_MARGIN, y + 5, min(share, 1.0) * plot, 9, kind, hover=text)
    drawing.line(_MARGIN + plot, 6, _MARGIN + plot, 14 + len(rows) * _LINE, "mark dashed")
    drawing.text(_MARGIN + plot, 30 + len(rows) * _LINE, "100 %; red: binding", "faint", anchor="end")
    head = ["Budget", "Used", "Limit", "Unit", "Share used", "Binding"]
    table = [
        [
            row.text,
            f"{row.used:,}",
            f"{row.limit:,}",
            row.unit,
            percent(row.used / row.limit),
            "unknown" if row.binding is None else "yes" if row.binding else "no",
        ]
        for row in rows
    ]
    return Figure(title, drawing, head, table)


def ranks(plan: Ranks, uniform: Ranks | None, full: dict[Component, int]) -> Figure:
    """Kept share of every component's rank, layer by layer, against the uniform allocation where there is one."""
    title = "Ranks by layer"
    count = len(plan.qk)
    labelled = count <= _LABELLED
    bar = 46 if count <= 12 else 30 if labelled else 12
    width, height = max(count * bar, _NARROWEST - _LEFT - _MARGIN), 90
    drawing = Drawing(_LEFT + width + _MARGIN, 20 + len(COMPONENTS) * (height + 52), title)
    step = 1 if labelled else 10
    for place, component in enumerate(COMPONENTS):
        panel = Panel(drawing, Axis(0.0, _ABOVE_BARS * 100), _LEFT, 30 + place * (height + 52), width, height)
        ticks = [((layer + 0.5) / count, str(layer)) for layer in range(0, count, step)]
        panel.frame(f"{TITLES[component]}, % of rank {full[component]}", ticks)
        for layer, rank in enumerate(plan.of(component)):
            share, label = 100 * rank / full[component], shown(*plan.at(layer, component))
            text = f"layer {layer} {TITLES[component]}: {label} of {full[component]}"
            panel.bar(layer / count, width / count - 3, share, component, hover=text)
            beside = 0.0
            if uniform is not None:
                beside = 100 * uniform.of(component)[layer] / full[component]
                x, y = panel.at(layer / count, beside)
                drawing.line(x - 1, y, x + width / count - 2, y, "mark")
            if labelled:
                x, y = panel.at((layer + 0.5) / count, max(share, beside))
                drawing.text(x - 1.5, y - 3, label, "ink", anchor="middle")
    head = ["Layer", *(f"{TITLES[c]} of {full[c]}" for c in COMPONENTS)]
    if uniform is not None:
        head += [f"{TITLES[c]}, uniform" for c in COMPONENTS]
    table = [
        [
            str(layer),
            *(shown(*plan.at(layer, c)) for c in COMPONENTS),
            *(str(uniform.of(c)[layer]) for c in COMPONENTS if uniform is not None),
        ]
        for layer in range(count)
    ]
    return Figure(title, drawing, head, table)
