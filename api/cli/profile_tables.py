"""A profile as text: 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import Removal
from allocator.plan.metrics.params import BlockParams
from allocator.plan.metrics.registry import METRICS
from allocator.plan.model.precision import mark
from allocator.plan.queries import interpolation_errors

_SHORT = 12
"""Characters of a hash that are shown; enough for the commands that take the beginning of one."""


def profiles_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """One row per profile."""
    table = Table()
    table.add_column("key", no_wrap=True, min_width=_SHORT)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    for name, width in (("weights", 8), ("calibration", 11), ("stored", 10)):
        table.add_column(name, no_wrap=True, min_width=width)
    for summary in summaries:
        hashes = (summary["weights_sha256"][:8], summary["calibration_sha256"][:8])
        day = summary["created_at"][:10]
        table.add_row(summary["key"][:_SHORT], escape(summary["model"]), *hashes, day)
    return table


def facts(profile: Profile) -> Table:
    """The facts of a profile: model, text, solver, effort, cost."""
    geometry, text = profile.model.geometry, profile.calibration
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("key", profile.key)
    table.add_row("model", escape(profile.model.reference))
    table.add_row("weights", profile.model.weights_sha256)
    table.add_row(
        "geometry",
        f"{escape(geometry.family)}, {geometry.layers} layers, {geometry.total_params:,} parameters",
    )
    table.add_row("solver", escape(f"{profile.solver} ({profile.solver_version or 'unknown'})"))
    table.add_row("calibration", text.sha256)
    if text.tokens is not None:
        windows = f"{text.fit_windows} windows fitted, {text.measure_windows} to measure on"
        table.add_row("", f"{text.tokens:,} tokens: {windows}")
    table.add_row("effort", escape(profile.effort or "unknown"))
    table.add_row("cost", costs(profile))
    table.add_row("repairs", f"{sum(len(curve.repairs) for curve in profile.curves)} measured points moved")
    if around := profile.around:
        loss = f"{around.loss_nats:.4g} ± {around.stderr_nats:.2g} nats/token"
        table.add_row("around", f"plan {around.plan}, which loses {loss}")
    if origin := profile.provenance:
        table.add_row("imported", escape(f"by {origin.imported_by} at {origin.imported_at}"))
        table.add_row("original key", origin.original_key)
    return table


def costs(profile: Profile) -> str:
    """The profile's cost as text, whatever numbers it has."""
    parts = []
    for name, value in profile.cost.items():
        numbers = value if isinstance(value, list) else [value]
        texts = dict.fromkeys(f"{number:,}" for number in numbers)
        parts.append(f"{name.replace('_', ' ')} {' to '.join(texts)}")
    return escape(", ".join(parts)) or "unknown"


def errors_table(profile: Profile) -> Table:
    """Errors of the curves at measured ranks that were left out of them."""
    table = Table(title="interpolation error at held-out ranks", title_justify="left")
    table.add_column("")
    for name in ("points", "median", "95 % below", "within noise"):
        table.add_column(name, justify="right")
    for component, row in interpolation_errors(profile).items():
        shares = ("-" if share is None else f"{100 * share:.1f} %" for share in (row.median, row.p95))
        table.add_row(component, str(row.points), *shares, str(row.too_small))
    return table


def removals_table(title: str, removals: Sequence[Removal], metric: str = BlockParams.name) -> Table:
    """One row per removal, in the order given."""
    unit = METRICS[metric.partition("@")[0]].unit
    title = f"{title} (saved: {unit})"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for name in ("layer", "", "rank", "nats/token", "saved", "per million"):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for removal in removals:
        per = "-" if removal.loss_per_unit is None else f"{1e6 * removal.loss_per_unit:.3g}"
        ranks = f"{removal.from_rank} → {removal.rank}"
        table.add_row(
            str(removal.layer),
            removal.component,
            ranks,
            f"{removal.loss_nats:.3g}",
            f"{removal.saved:,}",
            per,
        )
    return table


def points_table(curves: Sequence[Curve]) -> Table:
    """The measured points of curves."""
    table = Table()
    for name in ("layer", "", "rank", "nats/token", "standard error", "curve", "windows"):
        table.add_column(name, justify="left" if name == "" else "right")
    for curve in curves:
        for point in curve.cut.measured:
            measured = (point.loss_nats, point.stderr_nats, curve.loss_at(point.rank, curve.cut_form))
            rank = f"{point.rank}/{curve.full_rank}{mark(curve.cut_form)}"
            place = (str(curve.layer), curve.component, rank)
            table.add_row(*place, *(f"{value:.3g}" for value in measured), str(point.windows))
    return table
