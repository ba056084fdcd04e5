"""The table that ends every compression: dense, uniform and planned at the same budgets."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from allocator.plan.baselines import UNIFORM_KIND, UNIFORM_RATIO
from allocator.plan.metrics.registry import METRICS, SUMMARY
from allocator.report.document import Report
from allocator.report.rows import PLAN

_COSTS = {name: METRICS[name].short for name in SUMMARY}
_LOSSES = {
    "predicted_loss_nats": "predicted loss",
    "measured_loss_nats": "measured loss",
    "evaluation_rise_nats": "evaluation rise",
}


def comparison(report: Report) -> Table:
    """Costs, predicted and measured loss (nats/token) and perplexity of a report's models but uniform ranks; 80 columns wide.

    A healed model takes the place of the per-kind baseline, as does the uniform one in uniform bits.
    """
    budgets = "  ".join(budget.text for budget in report.budgets)
    model = report.model.split(":", 1)[-1]
    table = Table(title=escape(f"{model}   {budgets}"), title_justify="left", title_style="bold")
    left_out = {UNIFORM_RATIO, UNIFORM_KIND} if report.healed or report.uniform_bits else {UNIFORM_RATIO}
    shown = [(row, figures) for row, figures in report.models if row.name not in left_out]
    delivered, _ = shown[-1]
    table.add_column("", no_wrap=True)
    for row, _ in shown:
        style = "bold" if row is delivered else None
        table.add_column(row.short, justify="right", no_wrap=True, style=style)
    for cost, label in _COSTS.items():
        table.add_row(label, *(f"{figures.costs[cost]:,}" for _, figures in shown))
    table.add_section()
    for loss, label in _LOSSES.items():
        values = [getattr(figures, loss, None) for _, figures in shown]
        table.add_row(label, *("-" if value is None else f"{value:.4f}" for value in values))
    agreement = [getattr(figures, "top1_agreement", None) for _, figures in shown]
    if any(value is not None for value in agreement):
        table.add_row("same next token", *("-" if value is None else f"{value:.1%}" for value in agreement))
    seen = report.evaluation.seen
    table.add_row(
        "perplexity, seen" if seen else "perplexity, held out",
        *(f"{figures.evaluation_perplexity:.3f}" for _, figures in shown),
    )
    if report.certificate:
        gaps = [f"{report.certificate.gap:.1e}" if row.name == PLAN else "-" for row, _ in shown]
        proven = report.certificate.status == "optimal"
        table.add_row("proven gap" if proven else "[red]NOT OPTIMAL, gap[/red]", *gaps)
    if seen:
        table.caption, table.caption_justify, table.caption_style = f"Attention: {seen}.", "left", "bold red"
    return table
