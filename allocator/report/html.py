"""``report.html``: one file that opens anywhere, without a network."""

from __future__ import annotations

from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.curves import Curve
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import bits_of
from allocator.report import figures
from allocator.report.document import allocations, seen_text

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("allocator.report"), autoescape=True, undefined=jinja2.StrictUndefined
)


def render_html(report: dict[str, Any], geometry: Geometry, profile: dict[str, Any] | None) -> str:
    """The report as a page, with its pictures; plotly's script is inside the page. Without a profile it has no curves."""
    ranks = report["plan"]["ranks"]
    # Budgets that only bits can meet have no uniform ranks in the checkpoint's own type.
    uniform: list[dict[str, Any]] = next(
        (report[n]["ranks"] for n in ("uniform", "uniform_bits") if n in report), []
    )
    pictures = {
        "losses": figures.losses_figure(report),
        "budgets": figures.budgets_figure(report["budgets"]),
        "ranks": figures.ranks_figure(ranks, uniform, {c: geometry.full_rank(c) for c in COMPONENTS}),
    }
    if profile is not None:
        curves = [Curve.from_document(document) for document in profile["curves"]]
        pictures["curves"] = figures.curves_figure(curves, ranks)
    snippets = {
        name: figure.to_html(
            full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
        )
        for name, figure in pictures.items()
    }
    return _ENVIRONMENT.get_template("report.html").render(
        report=report,
        seen=seen_text(report["evaluation"]),
        rows=["dense", *allocations(report)],
        metrics=[METRICS[name] for name in SUMMARY],
        quantized=any(map(bits_of, ranks)),
        pictures=snippets,
        plotly=get_plotlyjs(),
    )
