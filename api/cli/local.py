"""The store of RANKALLOC_HOME as the source of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allocator.base.access import DEFAULT_TEAM as TEAM
from api.cli.console import settings

if TYPE_CHECKING:
    from allocator.service import TeamStore
    from allocator.store import Store


@contextmanager
def local_store() -> Iterator[Store]:
    """The store, made where there is none."""
    from allocator.store import Store

    store = Store.open(settings(), create=True)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def local_team() -> Iterator[TeamStore]:
    """The verbs of team ``default`` on that store."""
    from allocator.service import TeamStore

    with local_store() as store:
        yield TeamStore(store, settings(), team=TEAM, by=TEAM)
