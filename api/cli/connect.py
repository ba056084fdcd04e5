"""The source that ``--server`` names, and how commands follow a job there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from allocator.base.errors import InvalidInput
from allocator.store.states import SUCCEEDED
from api.cli.console import stderr
from api.cli.progress import job_progress
from api.cli.sources import failure

if TYPE_CHECKING:
    from allocator.jobs.document import EventDocument, JobDocument
    from api.cli.sources import Source
    from api.client import Client

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
        with service_of(server) as client:
            yield client
    else:
        from api.cli.local import local_team

        with local_team() as team:
            yield team


@contextmanager
def service_of(server: str | None) -> Iterator[Client]:
    """The service that is named, for what nobody does here. Raises InvalidInput where none is."""
    if not server:
        raise InvalidInput(
            "jobs are carried out by a service: name one with --server or RANKALLOC_SERVER;"
            " on this machine alone use rankalloc compress, profile or apply"
        )
    from api.cli.remote import service_at

    with service_at(server) as client:
        yield client


def follow(
    source: Source,
    job_id: str,
    on_update: Callable[[JobDocument, list[EventDocument]], None],
    *,
    after: int = 0,
) -> JobDocument:
    """Tell of a job until it is over: its document and the events since the last time, those numbered above ``after``."""
    from allocator.jobs.polling import polled_updates

    updates = polled_updates(
        lambda: source.jobs.get(job_id),
        lambda above: source.jobs.events(job_id, after=above),
        after=after,
        poll_s=_POLL_S,
    )
    for job, events in updates:
        on_update(job, events)
    return job


def wait(source: Source, job_id: str) -> JobDocument:
    """The job after it has succeeded, its progress shown meanwhile.

    Raises:
        JobFailed: it ended otherwise; with the exit status of what it failed of.
    """
    with job_progress(stderr) as on_update:
        job = follow(source, job_id, on_update)
    if job.state != SUCCEEDED:
        raise failure(job)
    return job
