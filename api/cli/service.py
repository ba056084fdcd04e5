"""``demo``, ``serve``, ``dispatcher``, ``worker`` and ``db``: the service's own processes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from allocator.base import logs
from api.cli.app import app, db
from api.cli.console import emit, settings
from api.cli.options import Json, Quiet


@app.command()
def demo(quiet: Quiet = False, json_output: Json = False) -> None:
    """Start the service, compress both bundled models over REST and plan a second budget."""
    from api.cli.demo import run

    document = run(settings(), tables=not json_output)
    if json_output:
        emit(document)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; loopback only while no token has been made.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    dispatch: Annotated[
        bool,
        typer.Option(help="Whether this process also dispatches, or leaves that to rankalloc dispatcher."),
    ] = True,
    json_output: Json = False,
) -> None:
    """Run the service: REST API, dispatcher and, with embedded defaults, one worker process."""
    from api.serve import run

    def ready(url: str) -> None:
        if json_output:
            emit({"url": url})
        else:
            sys.stdout.write(f"rankalloc is ready at {url} (API description: {url}/openapi.json)\n")
        sys.stdout.flush()

    configured = settings()
    logs.configure(configured, level="warning")
    run(configured, host, port, ready, dispatch=dispatch)


@app.command()
def dispatcher() -> None:
    """Publish messages and find lost work, in a process apart from the API (serve --no-dispatch)."""
    from allocator.jobs.machine.dispatcher import run

    configured = settings()
    logs.configure(configured, level="info")
    run(configured)


@app.command()
def worker() -> None:
    """Run a worker process for the configured broker and database."""
    from allocator.jobs.machine.worker import limit_threads, run

    configured = settings()
    limit_threads(configured)
    run(configured)


@db.command("upgrade")
def db_upgrade(json_output: Json = False) -> None:
    """Bring the store's schema to this version's revision. Repeating it is harmless."""
    from allocator.store import Store

    revision = Store.upgrade(settings())
    if json_output:
        emit({"revision": revision})
    else:
        sys.stdout.write(f"the schema is at revision {revision}\n")
