"""A compression on this machine: the same stages as the workers run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from allocator.base.settings import Settings
from allocator.plan.ask.bits import check_request
from allocator.plan.ask.budgets import check_timed, parse_budgets
from allocator.plan.ask.choices import ALLOCATIONS
from allocator.plan.model.latency import LatencyTable
from allocator.stages.pipeline import MOST_EVALUATIONS
from api.cli.console import bad_option, stderr, stdout
from api.cli.delivery import check_delivery, checked_out, deliver
from api.cli.inline import finished_job, request_of
from api.cli.options import (
    table_of_file,
)
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
    request, out = _request({**options, "latency_table": times and times.digest}), checked_out(out)
    return run_and_deliver(configured, request, out, table=table, times=times)


def run_and_deliver(
    configured: Settings,
    request: dict[str, Any],
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
    with finished_job(configured, "compress", request, table=times) as (_, job):
        artifacts = configured.artifacts_dir / job.id
    report: dict[str, Any] = json.loads((artifacts / "report.json").read_text(encoding="utf-8"))
    deliver(artifacts, out, request.get("export"))
    if table:
        stdout.print(comparison(report))
        names = ", ".join(sorted(path.name for path in out.iterdir()))
        stderr.print(f"written to {out}: {names}", soft_wrap=True, markup=False)
    return report


def _request(options: dict[str, Any]) -> dict[str, Any]:
    if options["allocation"] not in ALLOCATIONS:
        raise bad_option("allocation", options["allocation"], " or ".join(ALLOCATIONS))
    check_delivery(options)
    if options["refine"] is not None and not 0 <= options["refine"] <= MOST_EVALUATIONS:
        raise bad_option(
            "refine", str(options["refine"]), f"a number of evaluations from 0 to {MOST_EVALUATIONS}"
        )
    check_request("compress", options)
    # What is as it always was is no part of the request: it is then the same as one made before there was a choice.
    usual = {"bits": [], "heal": 0, "baselines": "all"}
    return request_of({name: None if usual.get(name) == value else value for name, value in options.items()})
