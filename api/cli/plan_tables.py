"""Plans and transfers as tables, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from allocator.plan.documents.plan import Plan
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import mark
from allocator.report.rows import baselines

_SHORT = 12
"""Characters of a digest that are shown; enough for the commands that take the beginning of one."""


def plan_table(plan: Plan) -> Group:
    """Budgets with what is used of them and what more would buy, predicted losses, ranks layer by layer."""
    budgets = Table(title="budgets", title_justify="left")
    for name in ("budget", "limit", "used", "binds"):
        budgets.add_column(name, justify="left" if name == "budget" else "right", no_wrap=True)
    for budget in plan.budgets:
        binds = {True: "yes", False: "no", None: "-"}[budget.binding]
        budgets.add_row(escape(budget.text), f"{budget.limit:,}", f"{budget.used:,}", binds)
    losses = Table(title="predicted loss, nats/token", title_justify="left")
    beside = list(baselines(plan))
    for name in (*(row.short for row, _ in beside), "this plan", "proven gap"):
        losses.add_column(name, justify="right", no_wrap=True)
    certificate = plan.certificate
    losses.add_row(
        *(f"{baseline.predicted_loss_nats:.4f}" for _, baseline in beside),
        f"{plan.predicted.loss_nats:.4f}",
        f"{certificate.gap:.1e} ({certificate.status})" if certificate else "-",
    )
    chosen = plan.chosen
    title = "ranks @bits" if chosen.bits else "ranks"
    ranks = Table(title=title, title_justify="left")
    for name in ("layer", *COMPONENTS):
        ranks.add_column(name, justify="right")
    for layer in range(len(plan.ranks)):
        at = (chosen.at(layer, c) for c in COMPONENTS)
        ranks.add_row(str(layer), *(f"{rank:,}{mark(form)}" for rank, form in at))
    meant = [escape(budget.understood) for budget in plan.budgets if budget.understood is not None]
    return Group(budgets, *meant, losses, ranks)


def transfer_table(transfer: dict[str, Any]) -> Table:
    """The numbers behind a verdict."""
    table = Table(
        title=f"against {escape(transfer['profiled_model'])}", title_justify="left", show_header=False
    )
    table.add_column("what", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    curves = transfer["curves"]
    table.add_row("probes", "0 (the same weights)" if transfer["same_weights"] else str(curves["probes"]))
    table.add_row("rank correlation of losses", f"{curves['spearman']:.3f}")
    spread = f"{curves['factor_p10']:.2f} to {curves['factor_p90']:.2f}"
    table.add_row(
        "loss over the stored one, median (10 to 90 %)", f"{curves['median_factor']:.2f} ({spread})"
    )
    if plan := transfer["plan"]:
        table.add_row("the plan's loss by the stored curves", f"{plan['predicted_nats']:.4f}")
        table.add_row("by curves scaled to the probes", f"{plan['scaled_nats']:.4f}")
        table.add_row("of the best plan by those", f"{plan['best_scaled_nats']:.4f}")
    return table


def plans_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """One row per plan."""
    table = Table()
    table.add_column("digest", no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("nats/token", justify="right", no_wrap=True)
    for name in ("from", "by", "stored"):
        table.add_column(name, no_wrap=True)
    for summary in summaries:
        loss = summary["predicted_loss_nats"]
        origin = summary["derivation"] or "solved"
        table.add_row(
            summary["digest"][:_SHORT],
            escape(summary["model"]),
            "-" if loss is None else f"{loss:.4f}",
            origin,
            escape(summary["created_by"]),
            summary["created_at"][:10],
        )
    return table


def notes_text(notes: dict[str, Any]) -> Iterator[str]:
    """Aliases, labels and comments, newest comment first, ready to be printed."""
    for name, key in (("aliases", "name"), ("labels", "label")):
        if notes[name]:
            yield f"{name}: {', '.join(comment[key] for comment in notes[name])}"
    for comment in notes["comments"]:
        yield escape(
            f"{comment['created_at'][:16].replace('T', ' ')} {comment['created_by']}: {comment['text']}"
        )


def lineage_text(lineage: dict[str, Any]) -> Iterator[str]:
    """A plan's family, a line each."""
    profile = lineage["profile"]
    model = (
        f" of {profile['model']}, calibration {profile['calibration_sha256'][:_SHORT]}"
        if profile["model"]
        else ""
    )
    yield escape(f"profile {profile['key'][:_SHORT]} ({profile['origin']}){model}")
    if former := lineage["derived_from"]:
        yield f"{former['how']} from plan {former['plan'][:_SHORT]}"
    yield escape(f"plan {lineage['plan'][:_SHORT]} for {lineage['model']}, by {lineage['created_by']}")
    for job in lineage["made_by"]:
        yield f"made by job {job['id']} ({job['kind']}, {job['state']})"
    for job in lineage["applied_by"]:
        loss = (job["measured"] or {}).get("measured_loss_nats")
        yield f"applied by job {job['id']} ({job['state']})" + (
            "" if loss is None else f", measured {loss:.4f} nats/token"
        )
        for checkpoint in job["checkpoints"]:
            for file in checkpoint["files"]:
                if file["name"].endswith(".safetensors"):
                    gone = " (removed)" if file["removed_at"] else ""
                    yield f"  {file['name']} sha256 {file['sha256']}{gone}"
    for child in lineage["derived"]:
        yield escape(f"{child['how']} to plan {child['plan'][:_SHORT]} for {child['model']}")


def history_table(changes: Sequence[dict[str, Any]]) -> Table:
    """One row per change of an alias."""
    table = Table()
    for name in ("version", "what", "from", "to", "by", "when"):
        table.add_column(name, no_wrap=True, justify="right" if name == "version" else "left")
    for change in changes:
        ends = ((change[name] or "-")[:_SHORT] for name in ("from_digest", "to_digest"))
        when = change["changed_at"][:16].replace("T", " ")
        table.add_row(str(change["version"]), change["action"], *ends, escape(change["changed_by"]), when)
    return table
