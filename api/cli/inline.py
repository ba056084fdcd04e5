"""What the one-shot commands share: a job of this machine's own store, run in this process from its first stage to its last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allocator.base.devices import check_device
from allocator.base.settings import Settings
from allocator.jobs.inline import run_inline
from allocator.jobs.submit import submit
from allocator.methods.registry import METHODS
from allocator.plan.documents.profile import Profile
from allocator.plan.effort import EFFORTS
from allocator.plan.model.latency import LatencyTable
from allocator.stages.inputs import PATH, preflight
from allocator.store import Job, Store
from allocator.store.states import SUCCEEDED
from api.cli.console import bad_option, stderr
from api.cli.folders import path_of
from api.cli.hub_texts import text_of
from api.cli.progress import job_progress
from api.cli.sources import failure

TEAM = "default"


def request_of(options: dict[str, Any]) -> dict[str, Any]:
    """A job's request from a command's options: without those that were not given, and paths as references.

    What is on a hub is fetched; of texts the request then says where they are from.

    Raises:
        InvalidInput: no such effort or solver, or a model or text that cannot be had.
    """
    for name, allowed in (("effort", EFFORTS), ("solver", METHODS)):
        if options[name] is not None and options[name] not in allowed:
            raise bad_option(name, options[name], " or ".join(allowed))
    request = {name: value for name, value in options.items() if value is not None}
    if "model" in request:
        request["model"] = PATH + str(path_of(request["model"]))
    sources: dict[str, str] = {}
    for name in ("calibration", "evaluation"):
        if name in request:
            place, source = text_of(
                request[name],
                name,
                column=request.get("text_column"),
                samples=request.get("samples"),
                length=request.get("sequence_length"),
            )
            request[name] = PATH + str(place)
            sources |= {name: source} if source else {}
    return {**request, "sources": sources} if sources else request


@contextmanager
def finished_job(
    settings: Settings,
    kind: str,
    request: dict[str, Any],
    *,
    table: LatencyTable | None = None,
    profile: Profile | None = None,
) -> Iterator[tuple[Store, Job]]:
    """The store and the job, after it has succeeded. What can be checked is checked before anything is written.

    Args:
        profile: what the request names in ``profile``.
        table: what the request names in ``latency_table``; stored first.

    Raises:
        InvalidInput: the device, the model or a text cannot be used.
        BudgetInfeasible: no ranks meet the budgets.
        JobFailed: the job ended in ``failed`` or ``crashed``.
    """
    check_device(settings)
    preflight(settings, request, kind=kind, profile=profile)
    store = Store.open(settings, create=True)
    try:
        if table is not None:
            store.latency_tables.put(TEAM, table.document, created_by=TEAM)
        job_id = submit(store, settings, team=TEAM, kind=kind, request=request, created_by=TEAM, inline=True)
        with job_progress(stderr) as on_update:
            run_inline(store, settings, job_id, on_update)
        job = store.jobs.get(TEAM, job_id)
        if job.state != SUCCEEDED:
            raise failure({"id": job_id, "state": job.state, "error": job.error})
        yield store, job
    finally:
        store.close()
