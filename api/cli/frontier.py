"""``rankalloc frontier``: what every limit of a metric costs in predicted loss, from a stored profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from allocator.base.errors import InvalidInput
from allocator.plan.documents.frontier import Frontier
from api.cli.app import app
from api.cli.connect import Server, source_of
from api.cli.console import emit, stderr
from api.cli.options import (
    BitsOfProfile,
    Json,
    LatencyFile,
    Target,
    constraints_of,
    parsed_bits,
    table_of_file,
)
from api.cli.sources import profile_of

_SHOWN = 20


@app.command()
def frontier(
    profile: Annotated[str, typer.Argument(help="A profile's key, or its beginning.", show_default=False)],
    metric: Annotated[
        list[str],
        typer.Option(help="A budget's metric without a value; twice makes a surface.", show_default=False),
    ],
    budget: Annotated[list[str] | None, typer.Option(help="Limits on other metrics.")] = None,
    points: Annotated[
        int | None, typer.Option(help="Per metric. Default: 200, or 20 of a surface.", show_default=False)
    ] = None,
    target: Target = None,
    bits: BitsOfProfile = None,
    latency_table: LatencyFile = None,
    csv_output: Annotated[bool, typer.Option("--csv", help="All points as CSV on standard output.")] = False,
    server: Server = None,
    json_output: Json = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the picture there: .svg, or .html with its numbers.")
    ] = None,
) -> None:
    """Exact loss against the limit of a metric, other budgets fixed; every point is proven like a plan."""
    from allocator.plan.frontier import frontier_csv, frontier_of
    from allocator.report.figures.figure import check_name
    from allocator.report.figures.frontier import frontier as frontier_figure
    from api.cli.delivery import write_file

    if csv_output and json_output:
        raise InvalidInput("--csv and --json exclude each other")
    if out is not None:
        check_name(out)
    widths = parsed_bits(bits)
    with source_of(server) as source:
        measured = profile_of(source, profile)
    document = frontier_of(
        measured,
        metric,
        budgets=budget or [],
        constraints=constraints_of([], [], [], [], target),
        points=points,
        latency=table_of_file(latency_table),
        bits=widths,
    )
    if out is not None:
        write_file(out, frontier_figure(document).file(out))
        stderr.print(f"written to {out}", soft_wrap=True, markup=False)
    if json_output:
        emit(document.document)
    elif csv_output:
        sys.stdout.write(frontier_csv(document))
    else:
        stderr.print(_table(document))
    if not document.proven:
        count = sum(not point.proven for point in document.points)
        stderr.print(f"[red]NOT PROVEN:[/red] {count} of {len(document.points)} points, see their gaps")


def _table(document: Frontier) -> Table:
    """About twenty of the points."""
    points = document.points
    every = max(1, -(-len(points) // _SHOWN))
    table = Table(title=f"{len(points)} points, every {every}. shown; --csv has all", title_justify="left")
    for axis in document.metrics:
        table.add_column(f"{axis.metric} <=", justify="right")
    for title in ("predicted loss", "gap"):
        table.add_column(title, justify="right")
    for point in points[::every]:
        proof = f"{point.gap:.0e}" + ("" if point.proven else " NOT PROVEN")
        table.add_row(*(f"{limit:,}" for limit in point.limits), f"{point.loss_nats:.3g}", proof)
    return table
