"""The store of RANKALLOC_HOME, as the commands that read no model use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allocator.cli.app import settings

if TYPE_CHECKING:
    from allocator.store import Store

TEAM = "default"


@contextmanager
def local_store() -> Iterator[Store]:
    from allocator.store import Store

    store = Store.open(settings(), create=True)
    try:
        yield store
    finally:
        store.close()


def stored_profile(key: str) -> dict[str, Any]:
    """A profile by its key or the key's first characters. Raises NotFound and InvalidInput."""
    with local_store() as store:
        return store.profiles.get(TEAM, store.profiles.resolve(TEAM, key))
