"""Latency tables in either database: kept unchanged, for one team alone."""

from __future__ import annotations

import pytest

from allocator.base.errors import NotFound
from allocator.store import Store
from tests.support.latency import table


def test_a_table_is_kept_unchanged_and_once(any_store: Store) -> None:
    known = table()
    assert any_store.latency_tables.put("ada", known, created_by="ann")
    assert not any_store.latency_tables.put("ada", known, created_by="ben")
    assert any_store.latency_tables.get("ada", known.digest) == known
    assert any_store.latency_tables.document("ada", known.digest) == known.document
    any_store.latency_tables.put("ada", table(slow=2), created_by="ann")
    page = any_store.latency_tables.find("ada", limit=1)
    assert [found["digest"] for found in page.items] == [table(slow=2).digest]
    (older,) = any_store.latency_tables.find("ada", limit=1, cursor=page.next_cursor).items
    assert (older["digest"], older["device"], older["created_by"]) == (table().digest, "cpu: a CPU", "ann")


def test_another_team_has_no_such_table(any_store: Store) -> None:
    any_store.latency_tables.put("ada", table(), created_by="ann")
    with pytest.raises(NotFound):
        any_store.latency_tables.get("bob", table().digest)
    assert any_store.latency_tables.find("bob").items == []
    assert any_store.latency_tables.put("bob", table(), created_by="bob"), "unique per team"
