"""The application behind a real port, in a thread of the test's process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.store import Store
from api.app import create_app
from tests.support.jobs import items
from tests.support.processes import wait_until


@contextmanager
def served(settings: Settings, store: Store) -> Iterator[str]:
    """Its address."""
    app = create_app(settings, store=store)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started, "the server listens")
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        app.state.services.stopping.set()
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def working(settings: Settings, store: Store) -> Iterator[None]:
    """A thread that does what jobs have queued, as a worker would."""
    over = threading.Event()

    def work() -> None:
        executor = Executor(store, settings)
        while not over.is_set():
            for job in store.jobs.unfinished():
                if job.stage is not None:
                    for item in items(store, job.id):
                        executor.execute(item.id)
            over.wait(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
