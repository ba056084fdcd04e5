"""Profiles: found, read, taken in from a file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from allocator.base.document import timestamp
from allocator.service.verbs import Verbs
from allocator.store.paging import Page, all_rows


class Profiles(Verbs):
    """``team.profiles``."""

    def page(
        self,
        *,
        model: str | None = None,
        weights_sha256: str | None = None,
        calibration: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[dict[str, Any]]:
        """One page of `find`."""
        return self._store.profiles.find(
            self._team,
            model=model,
            weights_sha256=weights_sha256,
            calibration_sha256=calibration,
            limit=limit,
            cursor=cursor,
        )

    def find(
        self, *, model: str | None = None, weights_sha256: str | None = None, calibration: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Summaries, newest first. ``calibration``: the text's sha256."""
        return all_rows(
            lambda cursor: self.page(
                model=model, weights_sha256=weights_sha256, calibration=calibration, cursor=cursor
            )
        )

    def resolve(self, key: str) -> str:
        """The whole key of a profile by its first characters; no document is read. Raises NotFound and InvalidInput."""
        return self._store.profiles.resolve(self._team, key)

    def get(self, key: str) -> dict[str, Any]:
        """A profile document, by its key or the key's first characters, at least 6. Raises NotFound."""
        return self._store.profiles.document(self._team, self.resolve(key))

    def import_(self, data: bytes, *, trust: bool = False) -> dict[str, Any]:
        """Take in an exported profile: ``{key, original_key, sha256, stored}``, ``stored`` False where it was there already.

        Args:
            trust: keep its key, so that jobs reuse it as if it had been measured here. Whoever says so vouches for it.

        Raises:
            InvalidInput: the file is none of an exported profile, or damaged.
        """
        from allocator.plan.files.portable import import_profile

        exported = import_profile(data)
        profile = exported.to_store(trust=trust, by=self._by, at=timestamp(datetime.now(UTC)))
        stored = self._store.profiles.take_in(self._team, profile, by=self._by)
        return {
            "key": profile.key,
            "original_key": exported.profile.key,
            "sha256": exported.sha256,
            "stored": stored,
        }
