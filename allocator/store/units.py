"""Measured units: the shared cache of curve data, one row per (team, content key)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from allocator.store.database import Database
from allocator.store.tables import units
from allocator.store.upserts import insert_or_ignore

_CHUNK = 500  # bound parameters of one IN (...)


class Units:
    """Content-keyed measurements. A key names everything the payload depends on, so a row never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, team: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The payloads of those ``keys`` that are stored."""
        payloads: dict[str, dict[str, Any]] = {}
        with self._database.read() as connection:
            for start in range(0, len(keys), _CHUNK):
                own = (units.c.team == team) & units.c.key.in_(keys[start : start + _CHUNK])
                for key, payload in connection.execute(select(units.c.key, units.c.payload).where(own)):
                    payloads[key] = payload
        return payloads

    def put_many(self, team: str, payloads: Mapping[str, dict[str, Any]]) -> int:
        """Store several units in one transaction. How many were new; of the others the first ones stay."""
        with self._database.write() as connection:
            return sum(
                insert_or_ignore(connection, units, team=team, key=key, payload=payload)
                for key, payload in payloads.items()
            )

    def put(self, team: str, key: str, payload: dict[str, Any]) -> bool:
        """Store a unit. False: it was there already (a late duplicate), and the first one stays."""
        return self.put_many(team, {key: payload}) == 1
