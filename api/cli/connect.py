"""The source that ``--server`` names, and how commands follow a job there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from allocator.store.states import SUCCEEDED, TERMINAL
from api.cli.console import settings, stderr
from api.cli.progress import job_progress
from api.cli.sources import Document, Source, failure

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="RANKALLOC_SERVER",
        metavar="URL",
        help="Ask this service, with the token in RANKALLOC_TOKEN, instead of the store of RANKALLOC_HOME.",
        show_default=False,
    ),
]
_POLL_S = 0.4


@contextmanager
def source_of(server: str | None) -> Iterator[Source]:
    """The service, if one is named, else the local store."""
    if server:
        from api.cli.remote import remote_source

        with remote_source(server) as remote:
            yield remote
    else:
        from api.cli.local import LocalSource, local_store

        with local_store() as store:
            yield LocalSource(store, settings())


def follow(source: Source, job_id: str, on_update: Callable[[Document, list[Document]], None]) -> Document:
    """Tell of a job until it is over: its document and the events since the last time."""
    seen = 0
    while True:
        job = source.job(job_id)
        events = source.events(job_id, seen)
        seen = events[-1]["seq"] if events else seen
        on_update(job, events)
        if job["state"] in TERMINAL:
            return job
        time.sleep(_POLL_S)


def wait(source: Source, job_id: str) -> Document:
    """The job after it has succeeded, its progress shown meanwhile.

    Raises:
        JobFailed: it ended otherwise; with the exit status of what it failed of.
    """
    with job_progress(stderr) as on_update:
        job = follow(source, job_id, on_update)
    if job["state"] != SUCCEEDED:
        raise failure(job)
    return job
