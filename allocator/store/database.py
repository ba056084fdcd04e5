"""Connections and transactions, the same for SQLite and PostgreSQL.

``write()`` opens a transaction that may write, ``read()`` one that may not. Inside an open one of the same
thread both join it, so repositories compose: whoever opened the outermost decides what is atomic. Engines are
made on first use and per process, because a connection must not cross a fork.

Isolation: on PostgreSQL READ COMMITTED, whatever the server's default is. What must not interleave is one statement
(``UPDATE ... WHERE`` with what it relies on), a unique constraint, or happens under a lock of the job's row. SQLite is
stricter: writers follow each other, a reader sees the state at its beginning.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from allocator.base.errors import InvalidInput, StoreUnavailable

log = logging.getLogger(__name__)

_WRITES = "rankalloc_writes"
_BUSY_TIMEOUT_S = 60
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class Database:
    """One database, lazily connected. Thread safe; safe to carry through a fork.

    ``patience_s``: how long a transaction may wait for a database that does not answer before it begins. For workers,
    which have work to lose; who answers a request says at once that the database is away.
    """

    def __init__(self, url: str, *, patience_s: float = 0.0) -> None:
        self.url = url
        self._patience_s = patience_s
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    # The parent still uses these connections: forget them without closing.
                    self._engine.dispose(close=False)
                self._engine, self._pid = _make_engine(self.url), os.getpid()
                self._local = threading.local()
            return self._engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write.

        Raises:
            StoreUnavailable: the database does not answer.
            InvalidInput: a value that it cannot hold.
        """
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            assert current.get_execution_options()[_WRITES], "a write inside a read transaction"
            yield current
            return
        with self._outermost(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; sees what an enclosing `write` has done."""
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self._outermost(writes=False) as connection:
            yield connection

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Inside `write`: what happens in the block is undone alone when the block raises."""
        current: Connection = self._local.connection
        with current.begin_nested():
            yield

    @contextmanager
    def _outermost(self, *, writes: bool) -> Iterator[Connection]:
        engine = self.engine.execution_options(**{_WRITES: writes})
        local = self._local
        try:
            with ExitStack() as stack:
                connection = self._begin(engine, stack)
                local.connection = connection
                try:
                    yield connection
                finally:
                    local.connection = None
        except OperationalError as error:
            raise StoreUnavailable(connection_problem(error)) from error
        except DataError as error:
            # PostgreSQL's text holds no NUL; nothing of ours does either, so that it came from outside.
            raise InvalidInput(
                "The database cannot hold a value as it was given, such as a text with a NUL."
            ) from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise StoreUnavailable("The connection to the database broke.") from error
            raise

    def _begin(self, engine: Engine, stack: ExitStack) -> Connection:
        """Begin a transaction that ends with ``stack``; nothing has been done yet that trying again would do twice."""
        deadline = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return stack.enter_context(engine.begin())
            except OperationalError as error:
                if time.monotonic() + pause_s > deadline:
                    raise
                log.warning("%s Trying again.", connection_problem(error))
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Close this process's connections; the object stays usable."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None


_REASONS = {
    r"password authentication failed|no password supplied|role .* does not exist|no pg_hba\.conf entry": (
        "refuses the user, or the password, of RANKALLOC_DATABASE_URL"
    ),
    r'database ".*" does not exist': "has no such database as RANKALLOC_DATABASE_URL names; create it first",
    r"too many clients|too many connections|connection slots": "has no connection left; see its max_connections",
    r"starting up|shutting down|in recovery": "is starting or stopping; try again in a moment",
    r"[Cc]onnection refused|No such file": (
        "does not answer: nothing listens at the host and port of RANKALLOC_DATABASE_URL"
    ),
    r"resolve host|translate host name|[Nn]ame or service": (
        "cannot be found: the host of RANKALLOC_DATABASE_URL has no address"
    ),
    r"timeout|timed out|No route|unreachable": (
        "does not answer in time: the host of RANKALLOC_DATABASE_URL cannot be reached from here"
    ),
}
"""What PostgreSQL and its driver say where no connection is made -> what to tell people, who need not learn where it runs."""


def connection_problem(error: OperationalError) -> str:
    """Why there is no connection, as a sentence without statement, parameters, host or user."""
    if isinstance(error.orig, sqlite3.Error):
        return f"The database does not answer: {error.orig}."
    message = str(error.orig)
    reason = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, message)), None)
    return f"The database {reason or f'does not answer: {type(error.orig).__name__}'}."


_FORM = "postgresql://<user>:<password>@<host>:5432/<database>, with % and two digits for @ : / ? # % in the password"


def _backend(url: str) -> str:
    """The kind of database. Raises InvalidInput for what is no address of one that is known, without repeating it."""
    try:
        backend = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        raise InvalidInput(f"RANKALLOC_DATABASE_URL: is no address of a database; write {_FORM}") from None
    if backend not in ("sqlite", "postgresql"):
        raise InvalidInput.of("RANKALLOC_DATABASE_URL", backend[:40], f"postgresql or sqlite; write {_FORM}")
    return backend


def _make_engine(url: str) -> Engine:
    if _backend(url) != "sqlite":
        try:
            return create_engine(
                url, isolation_level="READ COMMITTED", pool_pre_ping=True, pool_size=5, max_overflow=45
            )
        except ImportError:
            driver = make_url(url).get_driver_name()
            raise InvalidInput(
                f"RANKALLOC_DATABASE_URL: the driver {driver!r} is not installed; pip install 'rankalloc[postgres]'"
                " and write postgresql://..."
            ) from None
        except ArgumentError:
            raise InvalidInput(
                f"RANKALLOC_DATABASE_URL: names no driver that there is; write {_FORM}"
            ) from None
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S}, pool_size=5, max_overflow=45)

    @event.listens_for(engine, "connect")
    def configure(raw: Any, _entry: ConnectionPoolEntry) -> None:
        # The driver's own BEGIN comes too late and is never IMMEDIATE; `begin` below sends ours.
        raw.isolation_level = None
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails with "database is locked" whatever the
        # timeout.
        writes = connection.get_execution_options().get(_WRITES, True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
