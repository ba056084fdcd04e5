"""The store: everything rankalloc remembers, one repository per noun."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from allocator.store.aliases import Aliases
from allocator.store.artifacts import Artifacts
from allocator.store.audit import Audit
from allocator.store.database import Database
from allocator.store.events import Events
from allocator.store.items import Items
from allocator.store.jobs import Jobs
from allocator.store.latency_tables import LatencyTables
from allocator.store.models import Models
from allocator.store.notes import Notes
from allocator.store.operations import Operations
from allocator.store.plans import Plans
from allocator.store.profiles import Profiles
from allocator.store.shares import Shares
from allocator.store.teams import Teams
from allocator.store.tokens import Tokens
from allocator.store.units import Units
from allocator.store.wakeups import Wakeups

if TYPE_CHECKING:
    from allocator.base.settings import Settings

log = logging.getLogger(__name__)


class Store:
    """All repositories over one database.

    Thread safe. A repository's method is a transaction of its own, except inside ``transaction()``, which
    makes the calls of this thread one::

        with store.transaction():
            store.items.finish(...)
            store.events.append(...)
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.models = Models(database)
        self.units = Units(database)
        self.profiles = Profiles(database)
        self.plans = Plans(database)
        self.aliases = Aliases(database)
        self.notes = Notes(database)
        self.latency_tables = LatencyTables(database)
        self.jobs = Jobs(database)
        self.items = Items(database)
        self.events = Events(database)
        self.wakeups = Wakeups(database)
        self.artifacts = Artifacts(database)
        self.teams = Teams(database)
        self.tokens = Tokens(database)
        self.shares = Shares(database)
        self.audit = Audit(database)
        self.operations = Operations(database)

    @classmethod
    def open(cls, settings: Settings, *, create: bool = False, patience_s: float = 0.0) -> Store:
        """The store of these settings, whose schema is the one this code needs, or one that only adds to it.

        ``create`` lets the embedded SQLite file be made and upgraded on the way; a database somebody runs is
        never changed without being told to. ``patience_s`` is `Database`'s. Raises SchemaMismatch (with the command
        that mends it) and StoreUnavailable.
        """
        # Alembic takes a while to import: not for those who only name the class.
        from allocator.store import migrate

        if settings.embedded_database:
            settings.prepare_home()
        database = Database(settings.sqlalchemy_url, patience_s=patience_s)
        try:
            make = create and settings.embedded_database
            revision = migrate.upgrade(database) if make else migrate.check(database)
            if revision != migrate.head():
                log.warning(
                    "the database is at revision %s, which only adds to this version's %s",
                    revision,
                    migrate.head(),
                )
        except BaseException:
            database.close()
            raise
        return cls(database)

    @staticmethod
    def upgrade(settings: Settings) -> str:
        """Bring the database's schema to the newest revision and return that."""
        from allocator.store import migrate

        if settings.embedded_database:
            settings.prepare_home()
        database = Database(settings.sqlalchemy_url)
        try:
            return migrate.upgrade(database)
        finally:
            database.close()

    def transaction(self) -> AbstractContextManager[Connection]:
        """Make this thread's calls in the block one transaction, whose connection `audit.add` takes."""
        return self.database.write()

    def savepoint(self) -> AbstractContextManager[None]:
        """Inside ``transaction()``: undo the block alone when it raises."""
        return self.database.savepoint()

    def close(self) -> None:
        self.database.close()
