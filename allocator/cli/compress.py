"""``rankalloc compress``: one machine, one command, the same stages as the workers run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from allocator.budgets import parse_budgets
from allocator.cli.app import bad_option, stderr
from allocator.cli.progress import JobProgress
from allocator.cli.tables import comparison
from allocator.errors import InvalidInput, JobFailed, RankallocError
from allocator.jobs.devices import check_device
from allocator.jobs.inline import run_inline
from allocator.jobs.pipeline import MOST_HEAL_STEPS
from allocator.jobs.stages.apply import CLOSED_FORM, EXPORTS
from allocator.jobs.stages.inputs import PATH, preflight
from allocator.jobs.submit import submit
from allocator.planning import ALLOCATIONS
from allocator.profiling.effort import EFFORTS, SOLVERS
from allocator.settings import Settings
from allocator.store import Store

TEAM = "default"


def run(settings: Settings, options: dict[str, Any], out: Path, *, quiet: bool) -> dict[str, Any]:
    """Compress and return the report; everything that can be checked is checked before anything is written.

    Raises:
        InvalidInput: an option, the model or a text cannot be used.
        BudgetInfeasible: no ranks meet the budgets.
        JobFailed: the job ended in ``failed`` or ``crashed``.
    """
    request, out = _request(options), out.expanduser().resolve()
    _check_out(out)
    check_device(settings)
    preflight(settings, request, kind="compress")
    store = Store.open(settings, create=True)
    try:
        job_id = submit(
            store, settings, team=TEAM, kind="compress", request=request, created_by=TEAM, inline=True
        )
        with JobProgress(stderr) as progress:
            run_inline(store, settings, job_id, progress.update)
        job = store.jobs.get(TEAM, job_id)
        if job.state != "succeeded":
            raise _failure(job.error or {}, job.state, job_id)
    finally:
        store.close()
    report: dict[str, Any] = json.loads(
        (settings.artifacts_dir / job_id / "report.json").read_text(encoding="utf-8")
    )
    _deliver(settings.artifacts_dir / job_id, out, request["export"])
    if not quiet:
        stderr.print(comparison(report))
        stderr.print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return report


def _request(options: dict[str, Any]) -> dict[str, Any]:
    parse_budgets(options["budgets"])
    for name, allowed in (("allocation", ALLOCATIONS), ("effort", tuple(EFFORTS)), ("solver", SOLVERS)):
        if options[name] not in allowed:
            raise bad_option(name, options[name], " or ".join(allowed))
    for name in options["export"]:
        if name not in EXPORTS:
            raise bad_option("export", name, " or ".join(EXPORTS))
    if not 0 <= options["heal"] <= MOST_HEAL_STEPS:
        raise bad_option("heal", str(options["heal"]), f"a number of steps from 0 to {MOST_HEAL_STEPS}")
    # Healing that is off is no part of the request: it is then the same as one made before there was healing.
    request = {
        name: value for name, value in options.items() if value is not None and (name, value) != ("heal", 0)
    }
    for name in ("model", "calibration", "evaluation"):
        if name in request:
            request[name] = PATH + str(Path(request[name]).expanduser().resolve())
    return request


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"--out: {out} exists and is not an empty folder; name a new one")
    if not out.parent.is_dir():
        raise InvalidInput(f"--out: {out.parent} does not exist; create it first")


def _failure(error: dict[str, Any], state: str, job_id: str) -> RankallocError:
    """The job's stored error as an exception with the exit status of its type."""
    failure = JobFailed(error.get("detail") or f"job {job_id} ended as {state}")
    failure.exit_code = error.get("exit_code", JobFailed.exit_code)  # type: ignore[misc]
    return failure


def _deliver(artifacts: Path, out: Path, exports: list[str]) -> None:
    """Copy the job's files beside ``out`` and rename: the folder appears complete or not at all."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    unwanted = [name for name in (*EXPORTS, CLOSED_FORM) if name not in exports]
    try:
        shutil.copytree(
            artifacts, temporary, ignore=lambda folder, names: unwanted if Path(folder) == artifacts else []
        )
        if out.exists():
            out.rmdir()
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
