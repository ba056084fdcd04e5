"""``report.html``: one file that opens anywhere, without a network and without a script."""

from __future__ import annotations

import jinja2

from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.report.document import Report
from allocator.report.figures import report as figures
from allocator.report.figures.drawing import STYLE
from allocator.report.figures.profile import curves
from allocator.report.rows import ROWS

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("allocator.report"), autoescape=True, undefined=jinja2.StrictUndefined
)


def render_html(report: Report, geometry: Geometry, profile: Profile | None) -> str:
    """The report as a page, with its pictures. Without a profile it has no curves."""
    ranks = report.plan.chosen
    # Budgets that only bits can meet have no uniform ranks in the checkpoint's own type.
    uniform = report.uniform or report.uniform_bits
    full = {c: geometry.full_rank(c) for c in COMPONENTS}
    pictures = {
        "losses": figures.losses(report).picture(),  # the numbers stand in the table above it
        "budgets": figures.budgets(report.budgets).html(),
        "ranks": figures.ranks(ranks, uniform.chosen if uniform is not None else None, full).html(),
    }
    if profile is not None:
        pictures["curves"] = curves(profile, chosen=ranks).html()
    return _ENVIRONMENT.get_template("report.html").render(
        report=report,
        titles={name: row.title for name, row in ROWS.items()},
        metrics=[METRICS[name] for name in SUMMARY],
        pictures=pictures,
        style=STYLE,
    )
