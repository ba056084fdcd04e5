"""Shares: what a team lets another see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from allocator.base.access import Direction, ShareKind
from allocator.service.verbs import Verbs
from allocator.store.paging import Page, all_rows
from allocator.store.shares import Share


class Shares(Verbs):
    """``team.shares``. Profiles and plans are named by their whole key or digest."""

    def add(self, kind: ShareKind, key: str, *, with_team: str) -> Share:
        """Let another team see a profile or plan of this one. Raises as `add_new`."""
        return self.add_new(kind, key, with_team=with_team)[0]

    def add_new(self, kind: ShareKind, key: str, *, with_team: str) -> tuple[Share, bool]:
        """As `add`; and whether it could not be seen before.

        Raises:
            InvalidInput: an unknown team, or this one.
            NotFound: no such profile or plan of this team's own.
        """
        return self._store.shares.add(self._team, kind, key, with_team=with_team, by=self._by)

    def page(
        self,
        *,
        direction: Direction | None = None,
        kind: ShareKind | None = None,
        key: str | None = None,
        undone: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Share]:
        """One page of `find`."""
        return self._store.shares.find(
            self._team,
            directions=get_args(Direction) if direction is None else (direction,),
            kind=kind,
            key=key,
            undone=undone,
            limit=limit,
            cursor=cursor,
        )

    def find(
        self,
        *,
        direction: Direction | None = None,
        kind: ShareKind | None = None,
        key: str | None = None,
        undone: bool = False,
    ) -> Iterator[Share]:
        """The shares of this team (``given``) and of others with it (``received``), newest first; ``undone``: also those of
        the past.
        """
        return all_rows(
            lambda cursor: self.page(direction=direction, kind=kind, key=key, undone=undone, cursor=cursor)
        )

    def undo(self, share_id: str) -> None:
        """Hide it from the other team at once. Repeating it is harmless. Raises NotFound."""
        self._store.shares.undo(self._team, share_id, by=self._by)
