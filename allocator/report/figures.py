"""The report's pictures, as plotly figures."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from allocator.plan.model.curves import Curve
from allocator.plan.model.geometry import COMPONENTS, Component
from allocator.plan.model.precision import bits_of, shown
from allocator.report.document import allocations
from allocator.report.profile_figures import TITLES

_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f", "#edc948")
_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "font": {"family": "system-ui, sans-serif", "size": 13},
}


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def curves_figure(curves: list[Curve], ranks: list[dict[str, Any]]) -> go.Figure:
    """Loss against rank for every layer, one panel per kind; measured points as dots, the chosen rank as a star."""
    figure = make_subplots(rows=1, cols=3, subplot_titles=list(TITLES.values()))
    for curve in curves:
        column, colour = COMPONENTS.index(curve.component) + 1, _colour(curve.layer)
        name, shown = f"layer {curve.layer}", curve.component == "qk"
        below = [(r, loss) for r, loss in zip(curve.ranks, curve.loss_nats, strict=True) if loss > 0]
        common = {"legendgroup": name, "name": name, "showlegend": False}
        figure.add_scatter(
            x=[r for r, _ in below],
            y=[loss for _, loss in below],
            mode="lines",
            line={"color": colour},
            **{**common, "showlegend": shown},
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=[p.rank for p in curve.measured],
            y=[p.loss_nats for p in curve.measured],
            error_y={"array": [p.stderr_nats for p in curve.measured], "thickness": 1},
            mode="markers",
            marker={"color": colour, "size": 5},
            **common,
            row=1,
            col=column,
        )
        row_of = ranks[curve.layer]
        chosen, bits = row_of[curve.component], bits_of(row_of).get(curve.component)
        if curve.loss_at(chosen, bits) > 0:
            figure.add_scatter(
                x=[chosen],
                y=[curve.loss_at(chosen, bits)],
                mode="markers",
                marker={"color": colour, "size": 13, "symbol": "star", "line": {"width": 1, "color": "#222"}},
                **common,
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="rank")
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_yaxes(title_text="KL, nats/token", col=1)
    return figure.update_layout(height=430, **_LAYOUT)


def ranks_figure(
    plan_ranks: list[dict[str, Any]], uniform: list[dict[str, Any]], full: dict[Component, int]
) -> go.Figure:
    """Kept share of every component's rank, layer by layer, against the uniform allocation (empty: there is none)."""
    figure = go.Figure()
    layers = [f"layer {row['layer']}" for row in plan_ranks]
    for index, component in enumerate(COMPONENTS):
        kept = [row[component] for row in plan_ranks]
        figure.add_bar(
            x=layers,
            y=[100 * rank / full[component] for rank in kept],
            name=TITLES[component],
            marker_color=_colour(index),
            text=[shown(row[component], bits_of(row).get(component)) for row in plan_ranks],
        )
        if not uniform:
            continue
        figure.add_scatter(
            x=layers,
            y=[100 * row[component] / full[component] for row in uniform],
            mode="lines",
            line={"color": _colour(index), "dash": "dot"},
            name=f"{TITLES[component]} uniform",
        )
    figure.update_yaxes(title_text="kept rank, % of full", range=[0, 105])
    return figure.update_layout(height=400, barmode="group", **_LAYOUT)


def budgets_figure(budgets: list[dict[str, Any]]) -> go.Figure:
    """How much of every budget the plan uses."""
    figure = go.Figure()
    labels = [budget["text"] for budget in budgets]
    used = [100 * budget["used"] / budget["limit"] for budget in budgets]
    figure.add_bar(
        x=used,
        y=labels,
        orientation="h",
        marker_color=["#e15759" if budget["binding"] else "#4e79a7" for budget in budgets],
        text=[f"{budget['used']:,} of {budget['limit']:,} {budget['unit']}" for budget in budgets],
        textposition="inside",
    )
    figure.add_vline(x=100, line_dash="dash")
    figure.update_xaxes(title_text="% of the budget used (red: binding)", range=[0, 108])
    return figure.update_layout(height=140 + 50 * len(budgets), **_LAYOUT)


def losses_figure(report: dict[str, Any]) -> go.Figure:
    """Predicted and measured KL and the rise on evaluation text, for each allocation at the same budgets; healed last."""
    names = allocations(report)
    figure = go.Figure()
    for index, (key, label) in enumerate(
        (
            ("predicted_loss_nats", "predicted (surrogate)"),
            ("measured_loss_nats", "measured KL"),
            ("evaluation_rise_nats", "rise on evaluation text"),
        )
    ):
        values = [report[name][key] for name in names]
        figure.add_bar(
            x=names,
            y=values,
            name=label,
            marker_color=_colour(index),
            text=["" if value is None else f"{value:.4f}" for value in values],
        )
    figure.update_yaxes(title_text="nats/token")
    return figure.update_layout(height=400, barmode="group", **_LAYOUT)
