"""A compression on this machine: the same stages as the workers run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from allocator.base.kinds import COMPRESS
from allocator.base.settings import Settings
from allocator.plan.ask.budgets import check_timed, parse_budgets
from allocator.plan.model.latency import LatencyTable
from allocator.report.document import Report
from allocator.stages.request import Request
from api.cli.console import stderr, stdout
from api.cli.delivery import checked_out, deliver
from api.cli.inline import finished_job, local_request
from api.cli.options import table_of_file
from api.cli.tables import comparison


def run(configured: Settings, options: dict[str, Any], out: Path, *, table: bool) -> dict[str, Any]:
    """Compress and return the report; everything that can be checked is checked before anything is written.

    Raises:
        InvalidInput: an option, the model or a text cannot be used.
        BudgetInfeasible: no ranks meet the budgets.
        JobFailed: the job ended in ``failed`` or ``crashed``.
    """
    times = table_of_file(options["latency_table"])
    check_timed(parse_budgets(options["budgets"]), times)
    request = local_request(COMPRESS, {**options, "latency_table": times and times.digest})
    out = checked_out(out)
    return run_and_deliver(configured, request, out, table=table, times=times)


def run_and_deliver(
    configured: Settings,
    request: Request,
    out: Path,
    *,
    table: bool,
    times: LatencyTable | None = None,
) -> dict[str, Any]:
    """Run a job of kind compress to its end, put what was asked for into ``out``, and return the report.

    Args:
        table: print the report's comparison, the command's result for people.
        times: what budgets on time are counted in.
    """
    with finished_job(configured, request, table=times) as (_, job):
        artifacts = configured.artifacts_dir / job.id
    report: dict[str, Any] = json.loads((artifacts / "report.json").read_text(encoding="utf-8"))
    deliver(artifacts, out, request.export)
    if table:
        stdout.print(comparison(Report.stored(report)))
        names = ", ".join(sorted(path.name for path in out.iterdir()))
        stderr.print(f"written to {out}: {names}", soft_wrap=True, markup=False)
    return report
