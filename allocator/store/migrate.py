"""The schema's history: finding it, comparing with it, walking it. Alembic is imported only here."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select

from allocator.base.errors import SchemaMismatch
from allocator.store.database import Database
from allocator.store.tables import schema_compatibility

UPGRADE_COMMAND = "rankalloc db upgrade"
INSTALL_COMMAND = "pip install --upgrade rankalloc"
# It tells at INFO that it looked; that it changed something is told by whoever asked for it.
logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
_alembic_lock = threading.Lock()  # Alembic keeps its context in module globals


def migrations_folder() -> Path:
    """The history: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def config() -> Config:
    return _config(migrations_folder())


def _config(folder: Path) -> Config:
    result = Config()
    # Config values are %-interpolated.
    result.set_main_option("script_location", str(folder).replace("%", "%%"))
    # Otherwise Alembic splits the setting above at spaces and colons.
    result.set_main_option("path_separator", "newline")
    return result


@dataclass(frozen=True)
class History:
    """The revisions that this code knows."""

    head: str
    revisions: frozenset[str]


@cache
def _history(folder: Path) -> History:
    # Read once: files that are exchanged under a running process are not this process's code.
    scripts = ScriptDirectory.from_config(_config(folder))
    revision = scripts.get_current_head()
    assert revision is not None, "no migrations found"
    return History(revision, frozenset(script.revision for script in scripts.walk_revisions()))


def head() -> str:
    """The revision this code is made for."""
    return _history(migrations_folder()).head


def current(database: Database) -> str | None:
    """The revision the database is at; None for an empty one."""
    with database.read() as connection:
        return _current(connection)


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database) -> str:
    """Bring the database to `head`, and return its revision; harmless when it is there, safe when several processes try at
    once. A newer database that this code works with is left as it is.

    Raises:
        SchemaMismatch: a newer one that this code does not work with.
    """
    revision = current(database)
    if revision is not None and revision not in _history(migrations_folder()).revisions:
        return check(database)
    with _alembic_lock, database.write() as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
    return head()


def check(database: Database) -> str:
    """The database's revision: `head`, or a newer one that only adds to it.

    Raises:
        SchemaMismatch: another one, or none; says the command that mends it.
    """
    revision, history = current(database), _history(migrations_folder())
    if revision == history.head:
        return revision
    if revision is None or revision in history.revisions:
        state = "has no schema yet" if revision is None else f"is at revision {revision}"
        raise SchemaMismatch(
            f"The database {state}, this version needs {history.head}. Run `{UPGRADE_COMMAND}`.",
            command=UPGRADE_COMMAND,
        )
    oldest = _oldest_code(database, revision)
    if oldest in history.revisions:
        return revision
    needs = "" if oldest is None else f"; it needs a version made for {oldest} or later"
    raise SchemaMismatch(
        f"The database is at revision {revision}, which is newer than this version of rankalloc knows{needs}. "
        f"Install the version that wrote it: `{INSTALL_COMMAND}`.",
        command=INSTALL_COMMAND,
    )


def _oldest_code(database: Database, revision: str) -> str | None:
    """The revision that `note_oldest_code` wrote; None in a database of before that was written."""
    with database.read() as connection:
        if not inspect(connection).has_table(schema_compatibility.name):
            return None
        condition = schema_compatibility.c.revision == revision
        return connection.execute(select(schema_compatibility.c.oldest_code).where(condition)).scalar()


def note_oldest_code(connection: Connection, scripts: ScriptDirectory) -> None:
    """Write down, for code that does not know the database's revision, whether it works with it all the same.

    A revision whose module says ``additive = True`` takes nothing away that code of the revision before relies on
    (CONTRIBUTING.md). The oldest code that works is that of the last revision which says no such thing.
    """
    revision = _current(connection)
    if revision is None or not inspect(connection).has_table(schema_compatibility.name):
        return
    script = scripts.get_revision(revision)
    while getattr(script.module, "additive", False):
        script = scripts.get_revision(str(script.down_revision))
    connection.execute(schema_compatibility.delete())
    row = {"revision": revision, "oldest_code": script.revision}
    connection.execute(schema_compatibility.insert().values(**row))
