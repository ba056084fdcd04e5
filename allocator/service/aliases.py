"""Aliases: names for plans, moved under the version that was seen so that no move is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from allocator.service.verbs import Verbs
from allocator.store.aliases import Alias, Expected
from allocator.store.paging import Page, all_rows


class PlanAliases(Verbs):
    """The verbs of ``team.plans`` for aliases. A version is the number of the last change that somebody has seen; a server that
    is sent conditions of HTTP hands on what they expect.
    """

    def resolve(self, plan: str) -> str:
        """The digest of a plan by any of its names; no document is read. Raises NotFound and InvalidInput."""
        return self._store.plans.resolve(self._team, plan)

    def alias(self, name: str) -> Alias:
        """The alias of this name; its ``version`` is what changes of it need. Raises NotFound."""
        return self._store.aliases.get(self._team, name)

    def alias_page(
        self, *, plan: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Alias]:
        """One page of `aliases`."""
        digest = None if plan is None else self.resolve(plan)
        return self._store.aliases.find(self._team, digest=digest, limit=limit, cursor=cursor)

    def aliases(self, *, plan: str | None = None) -> Iterator[Alias]:
        """Aliases (of one plan), newest name first."""
        return all_rows(lambda cursor: self.alias_page(plan=plan, cursor=cursor))

    def set_alias(self, name: str, plan: str, *, version: int | None = None) -> Alias:
        """Make an alias, or, with the ``version`` that was seen, move it. Raises as `put_alias`."""
        return self.put_alias(name, plan, expected=_expected(version))[0]

    def put_alias(self, name: str, plan: str, *, expected: Expected) -> tuple[Alias, bool]:
        """Point an alias at a plan; and whether it is new.

        Raises:
            PreconditionFailed: it is not what was expected.
            PreconditionRequired: it is there, and nothing was expected.
        """
        return self._store.aliases.set(self._team, name, self.resolve(plan), by=self._by, expected=expected)

    def roll_back(
        self, name: str, *, version: int | None = None, to: int | None = None, expected: Expected = None
    ) -> Alias:
        """Point an alias at what it pointed at before, or in version ``to``. Raises as `put_alias`, and Conflict."""
        return self._store.aliases.roll_back(
            self._team, name, by=self._by, expected=_expected(version, expected), version=to
        )

    def delete_alias(self, name: str, *, version: int | None = None, expected: Expected = None) -> None:
        """Forget where an alias points; its history and all plans stay. Raises as `put_alias`."""
        self._store.aliases.delete(self._team, name, by=self._by, expected=_expected(version, expected))

    def history_page(self, name: str, *, limit: int = 50, cursor: str | None = None) -> Page[dict[str, Any]]:
        """One page of `alias_history`."""
        return self._store.aliases.history(self._team, name, limit=limit, cursor=cursor)

    def alias_history(self, name: str) -> Iterator[dict[str, Any]]:
        """Every change of an alias, newest first; also of one that was deleted."""
        return all_rows(lambda cursor: self.history_page(name, cursor=cursor))


def _expected(version: int | None, otherwise: Expected = None) -> Expected:
    """A caller's belief of an alias: that it is at this version, or what is believed where none is named."""
    return otherwise if version is None else frozenset({version})
