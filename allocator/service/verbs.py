"""What the verbs of all things know: whose they are."""

from __future__ import annotations

from allocator.store import Store


class Verbs:
    """What one member (``by``) of ``team`` does with one kind of thing in ``store``."""

    def __init__(self, store: Store, *, team: str, by: str) -> None:
        self._store, self._team, self._by = store, team, by
