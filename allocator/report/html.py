"""``report.html``: one file that opens anywhere, without a network and without a script."""

from __future__ import annotations

from typing import Any

import jinja2

from allocator.plan.baselines import UNIFORM_BITS, UNIFORM_RATIO
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import bits_of
from allocator.report.document import seen_text
from allocator.report.figures import report as figures
from allocator.report.figures.drawing import STYLE
from allocator.report.figures.profile import curves
from allocator.report.rows import ROWS, rows_of

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("allocator.report"), autoescape=True, undefined=jinja2.StrictUndefined
)


def render_html(report: dict[str, Any], geometry: Geometry, profile: Profile | None) -> str:
    """The report as a page, with its pictures. Without a profile it has no curves."""
    ranks = report["plan"]["ranks"]
    # Budgets that only bits can meet have no uniform ranks in the checkpoint's own type.
    uniform: list[dict[str, Any]] = next(
        (report[n]["ranks"] for n in (UNIFORM_RATIO, UNIFORM_BITS) if n in report), []
    )
    full = {c: geometry.full_rank(c) for c in COMPONENTS}
    pictures = {
        "losses": figures.losses(report).picture(),  # the numbers stand in the table above it
        "budgets": figures.budgets(report["budgets"]).html(),
        "ranks": figures.ranks(ranks, uniform, full).html(),
    }
    if profile is not None:
        pictures["curves"] = curves(profile, chosen=ranks).html()
    return _ENVIRONMENT.get_template("report.html").render(
        report=report,
        seen=seen_text(report["evaluation"]),
        rows=rows_of(report),
        titles={name: row.title for name, row in ROWS.items()},
        metrics=[METRICS[name] for name in SUMMARY],
        quantized=any(map(bits_of, ranks)),
        pictures=pictures,
        style=STYLE,
    )
