"""The schema's history: finding it, comparing with it, walking it. Alembic is imported only here."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from allocator.errors import SchemaMismatch
from allocator.store.database import Database

UPGRADE_COMMAND = "rankalloc db upgrade"
# It tells at INFO that it looked; that it changed something is told by whoever asked for it.
logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
_alembic_lock = threading.Lock()  # Alembic keeps its context in module globals


def migrations_folder() -> Path:
    """The history: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def config() -> Config:
    result = Config()
    # Config values are %-interpolated.
    result.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    # Otherwise Alembic splits the setting above at spaces and colons.
    result.set_main_option("path_separator", "newline")
    return result


def head() -> str:
    """The revision this code needs."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None, "no migrations found"
    return revision


def current(database: Database) -> str | None:
    """The revision the database is at; None for an empty one."""
    with database.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(database: Database) -> str:
    """Bring the database to `head`; harmless when it is there, safe when several processes try at once."""
    with _alembic_lock, database.write() as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
    return head()


def check(database: Database) -> None:
    """Raises SchemaMismatch, with the command that mends it, unless the database is at `head`."""
    found, needed = current(database), head()
    if found == needed:
        return
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"The database is at revision {found}, which is newer than this version of rankalloc knows. "
            "Install the version that wrote it: `pip install --upgrade rankalloc`."
        )
    state = "has no schema yet" if found is None else f"is at revision {found}, this version needs {needed}"
    raise SchemaMismatch(f"The database {state}. Run `{UPGRADE_COMMAND}`.")
