"""The base of all verbs, which knows whose they are."""

from __future__ import annotations

from allocator.store import Store


class Verbs:
    """The verbs of one member (``by``) of ``team`` for one kind of thing in ``store``."""

    def __init__(self, store: Store, *, team: str, by: str) -> None:
        self._store, self._team, self._by = store, team, by
