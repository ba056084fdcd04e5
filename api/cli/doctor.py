"""``rankalloc doctor``."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from api.cli.app import app
from api.cli.console import emit, settings, stdout
from api.cli.options import Json

_MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]look[/yellow]", "wrong": "[red]wrong[/red]"}


@app.command()
def doctor(json_output: Json = False) -> None:
    """Check this deployment and say what to do: folders, database, broker, workers. Exit status 1 if something is wrong."""
    from allocator.jobs.host.doctor import examine

    findings = examine(settings())
    if json_output:
        emit({"findings": [finding.document() for finding in findings]})
    else:
        table = Table("", "check", "found", "what to do", box=None, padding=(0, 2, 0, 0))
        for finding in findings:
            table.add_row(_MARKS[finding.state], finding.check, escape(finding.found), escape(finding.advice))
        stdout.print(table)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)
