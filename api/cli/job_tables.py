"""Jobs as text, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from allocator.base.document import timestamp
from allocator.jobs.document import EventDocument, JobDocument
from allocator.store.states import UNFINISHED

_ULID = 26


def jobs_table(jobs: Sequence[JobDocument]) -> Table:
    """One row per job."""
    table = Table()
    table.add_column("id", no_wrap=True, min_width=_ULID)  # what people copy
    for name in ("kind", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("model", no_wrap=True, overflow="ellipsis")
    table.add_column("submitted", no_wrap=True)
    for job in jobs:
        when = f"{job.created_at:%Y-%m-%d %H:%M}"
        table.add_row(job.id, job.kind, job.state, escape(job.model), when)
    return table


def job_facts(job: JobDocument) -> Table:
    """Everything of one job that people ask about."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    progress = job.progress
    stage = job.stage or "-"
    if progress and job.state in UNFINISHED:
        stage = f"{stage}, {progress.done} of {progress.total} {progress.unit}"
    rows = {
        "job": job.id,
        "state": job.state,
        "stage": stage,
        "waits": job.queue_reason,
        "kind": job.kind,
        "model": job.model,
        "budgets": "  ".join(job.budgets),
        "plan": job.plan,
        "profile": job.profile_key,
        "error": (job.error or {}).get("detail"),
        "again": job.retry_of and f"of {job.retry_of}",
        "submitted": f"{timestamp(job.created_at)} by {job.created_by}",
        "ended": job.finished_at and timestamp(job.finished_at),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    return table


def event_line(event: EventDocument) -> str:
    """One event."""
    return f"{event.seq:>4}  {event.created_at:%H:%M:%S}  {escape(event.message)}"
