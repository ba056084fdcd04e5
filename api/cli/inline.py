"""Jobs of the one-shot commands: of this machine's own store, run in this process from the first stage to the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allocator.base.access import DEFAULT_TEAM as TEAM
from allocator.base.devices import check_device
from allocator.base.settings import Settings
from allocator.jobs.inline import run_inline
from allocator.jobs.submit import submit
from allocator.plan.documents.profile import Profile
from allocator.plan.model.latency import LatencyTable
from allocator.stages.inputs import preflight
from allocator.stages.request import Request
from allocator.stages.sources import PATH
from allocator.store import Job, Store
from allocator.store.states import SUCCEEDED
from api.cli.console import stderr
from api.cli.folders import path_of
from api.cli.hub_texts import text_of
from api.cli.options import request_of
from api.cli.progress import job_progress
from api.cli.sources import failure


def local_request(kind: str, options: dict[str, Any]) -> Request:
    """A job's request as `request_of` makes it, with paths as references. Models and texts on a hub are fetched; the request
    then says where texts are from.

    Raises:
        InvalidInput: an option that cannot be, or a model or text that cannot be had.
    """
    texts = {name: options[name] for name in ("calibration", "evaluation") if options.get(name) is not None}
    # Paths come last: they may be longer than names. The device is a setting of this machine.
    request = request_of(kind, {**options, **dict.fromkeys(texts), "model": PATH, "device": None})
    references: dict[str, Any] = {"model": PATH + str(path_of(options["model"]))}
    sources: dict[str, str] = {}
    for name, text in texts.items():
        place, source = text_of(
            text,
            name,
            column=request.text_column,
            samples=request.samples,
            length=request.sequence_length,
        )
        references[name] = PATH + str(place)
        sources |= {name: source} if source else {}
    return request.model_copy(update={**references, "sources": sources} if sources else references)


@contextmanager
def finished_job(
    settings: Settings,
    request: Request,
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
    preflight(settings, request, profile=profile)
    store = Store.open(settings, create=True)
    try:
        if table is not None:
            store.latency_tables.put(TEAM, table, created_by=TEAM)
        job_id = submit(store, settings, team=TEAM, request=request, created_by=TEAM, inline=True)
        with job_progress(stderr) as on_update:
            run_inline(store, settings, job_id, on_update)
        job = store.jobs.get(TEAM, job_id)
        if job.state != SUCCEEDED:
            raise failure(job)
        yield store, job
    finally:
        store.close()
