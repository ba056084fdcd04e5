"""Plans and transfers as tables, 80 columns wide."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from allocator.geometry import COMPONENTS


def plan_table(plan: dict[str, Any]) -> Group:
    """Budgets with what is used of them and what more would buy, predicted losses, ranks layer by layer."""
    budgets = Table(title="budgets", title_justify="left")
    for name in ("budget", "limit", "used", "binds"):
        budgets.add_column(name, justify="left" if name == "budget" else "right", no_wrap=True)
    for row in plan["budgets"]:
        binds = {True: "yes", False: "no", None: "-"}[row["binding"]]
        budgets.add_row(row["text"], f"{row['limit']:,}", f"{row['used']:,}", binds)
    losses = Table(title="predicted loss, nats/token", title_justify="left")
    names = {"uniform": "uniform", "uniform_kind": "per kind"}
    for name in (
        *(label for key, label in names.items() if key in plan["baseline"]),
        "this plan",
        "proven gap",
    ):
        losses.add_column(name, justify="right", no_wrap=True)
    certificate = plan["certificate"]
    losses.add_row(
        *(f"{plan['baseline'][key]['predicted_loss_nats']:.4f}" for key in names if key in plan["baseline"]),
        f"{plan['predicted']['loss_nats']:.4f}",
        f"{certificate['gap']:.1e} ({certificate['status']})" if certificate else "-",
    )
    ranks = Table(title="ranks", title_justify="left")
    for name in ("layer", *COMPONENTS):
        ranks.add_column(name, justify="right")
    for row in plan["ranks"]:
        ranks.add_row(str(row["layer"]), *(f"{row[c]:,}" for c in COMPONENTS))
    return Group(budgets, losses, ranks)


def transfer_table(found: dict[str, Any]) -> Table:
    """The numbers behind a verdict."""
    table = Table(title=f"against {found['profiled_model']}", title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    curves = found["curves"]
    table.add_row("probes", "0 (the same weights)" if found["same_weights"] else str(curves["probes"]))
    table.add_row("rank correlation of losses", f"{curves['spearman']:.3f}")
    spread = f"{curves['factor_p10']:.2f} to {curves['factor_p90']:.2f}"
    table.add_row(
        "loss over the stored one, median (10 to 90 %)", f"{curves['median_factor']:.2f} ({spread})"
    )
    if plan := found["plan"]:
        table.add_row("the plan's loss by the stored curves", f"{plan['predicted_nats']:.4f}")
        table.add_row("by curves scaled to the probes", f"{plan['scaled_nats']:.4f}")
        table.add_row("of the best plan by those", f"{plan['best_scaled_nats']:.4f}")
    return table
