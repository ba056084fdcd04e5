"""How the databases answer what is asked all the time: by index, however much has piled up.

Every statement of a call is caught on its way to the driver and explained by the database itself, on tables filled as
``tests.support.population`` fills them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event

from allocator.base.settings import Settings
from allocator.jobs.document import job_documents
from allocator.store import Store
from tests.support import servers
from tests.support.population import LABEL, LIMIT, METRIC, Size, hexadecimal, item_id, job_id, populate

SIZE = Size(ended_jobs=2000, other_profiles=500, profiles_of_one_model=4000, plans=2000, units=4000)
OLD, NEW = 5, SIZE.ended_jobs + 5
"""An ended job and a queued one."""
KEY = hexadecimal(7)
CLAIM: dict[str, Any] = {"attempt": 0, "inline": False, "max_lost_leases": 3}

PAGES: dict[str, Callable[[Store], Any]] = {
    "jobs": lambda store: store.jobs.find("default"),
    "jobs, next page": lambda store: store.jobs.find(
        "default", cursor=store.jobs.find("default").next_cursor
    ),
    "jobs by state": lambda store: store.jobs.find("default", state="queued"),
    "jobs by model": lambda store: store.jobs.find("default", model="local:m4"),
    "profiles": lambda store: store.profiles.find("default"),
    "profiles of the busiest model": lambda store: store.profiles.find("default", model="local:m0"),
    "profiles of another model": lambda store: store.profiles.find("default", model="local:m44"),
    "profiles by weights": lambda store: store.profiles.find("default", weights_sha256=hexadecimal(0)),
    "plans": lambda store: store.plans.find("default"),
    "plans by profile": lambda store: store.plans.find("default", profile_key=KEY),
    "plans by model": lambda store: store.plans.find("default", model="local:m4"),
    "plans by weights": lambda store: store.plans.find("default", weights_sha256=hexadecimal(4)),
}
"""Lists: by index, and in its order, so that a page costs the same however long the list is."""

LOOKUPS: dict[str, Callable[[Store], Any]] = {
    "plans by label": lambda store: store.plans.find("default", label=LABEL),
    "plans within a limit": lambda store: store.plans.find(
        "default", metric=METRIC, limits=(LIMIT, LIMIT + 40)
    ),
    "job": lambda store: store.jobs.get("default", job_id(NEW)),
    "job by idempotency key": lambda store: store.jobs.by_idempotency_key("default", "k"),
    "page of job documents": lambda store: job_documents(store, store.jobs.find("default").items),
    "profile": lambda store: store.profiles.exists("default", KEY),
    "plan": lambda store: store.plans.find("default", profile_key="none").items,
    "measurements": lambda store: store.plans.measurements("default", KEY),
    "units": lambda store: store.units.get_many("default", [hexadecimal(n) for n in range(50)]),
    "model": lambda store: store.models.find_by_reference("default", "local:m4"),
    "model by weights": lambda store: store.models.get("default", hexadecimal(4)),
    "events": lambda store: store.events.list("default", job_id(NEW), after=1),
    "artifacts": lambda store: store.artifacts.list("default", job_id(4)),
    "results": lambda store: store.items.results(job_id(OLD)),
    "unfinished items": lambda store: store.items.count(job_id(OLD)),
    "claim": lambda store: store.items.claim(item_id(NEW, 0), "me", 30.0, **CLAIM),
    "renew": lambda store: store.items.renew(item_id(NEW, 0), 1, 30.0, (1, 2, "windows")),
    "orphans": lambda store: store.items.orphans(),
    "owned": lambda store: store.items.owned_by("me"),
    "due messages": lambda store: store.wakeups.due(),
    "published": lambda store: store.wakeups.published(store.wakeups.due(limit=1), 30.0),
    "waiting jobs": lambda store: store.jobs.ids_with_queue_reason(),
    "abandoned inline jobs": lambda store: store.jobs.abandoned_inline(),
    "unfinished jobs": lambda store: store.jobs.unfinished(),
}

COUNTS: dict[str, Callable[[Store], Any]] = {
    "jobs by state": lambda store: store.jobs.count_by_state(),
    "items by state": lambda store: store.items.count_by_state(),
}
"""Metrics count every row, but from an index alone."""

GROWING = "jobs|job_items|events|artifacts|models|units|profiles|plans|plan_budgets|plan_measurements"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def busy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    settings = Settings(home=tmp_path_factory.mktemp("busy") / "home")
    if request.param == "postgresql":
        with servers.fresh_database(request.getfixturevalue("postgres_server")) as url:
            yield from _filled(settings.model_copy(update={"database_url": url}))
    else:
        yield from _filled(settings)


def _filled(settings: Settings) -> Iterator[Store]:
    Store.upgrade(settings)
    store = Store.open(settings)
    populate(store, SIZE)
    yield store
    store.close()


class _Undo(Exception):
    """Ends a transaction."""


def _undone(store: Store, call: Callable[[Store], Any]) -> None:
    with store.transaction():
        call(store)
        raise _Undo


def explained(store: Store, call: Callable[[Store], Any], *, sorting: bool = True) -> list[str]:
    """The database's plan of every statement of a call, which is undone.

    ``sorting=False``: PostgreSQL, which rather sorts a few rows, sorts only where no index gives the order.
    """
    caught: list[tuple[str, Any]] = []

    def catch(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
            caught.append((statement, parameters))

    event.listen(store.database.engine, "before_cursor_execute", catch)
    with suppress(_Undo):
        _undone(store, call)
    event.remove(store.database.engine, "before_cursor_execute", catch)
    assert caught
    sqlite = store.database.engine.dialect.name == "sqlite"
    head, column = ("EXPLAIN QUERY PLAN", 3) if sqlite else ("EXPLAIN", 0)
    lines: list[str] = []
    for statement, parameters in caught:
        with store.database.read() as connection:
            if not sqlite and not sorting:
                connection.exec_driver_sql("SET LOCAL enable_sort = off")
            rows = connection.exec_driver_sql(f"{head} {statement}", parameters)
            lines += [row[column].strip() for row in rows]
    return lines


def scans(lines: list[str]) -> list[str]:
    """Where a growing table is read from one end to the other."""
    return [line for line in lines if re.match(rf"(SCAN |(-> +)?Seq Scan on )({GROWING})\b", line)]


@pytest.mark.parametrize("name", [*PAGES, *LOOKUPS])
def test_no_growing_table_is_read_whole(busy: Store, name: str) -> None:
    lines = explained(busy, {**PAGES, **LOOKUPS}[name])
    assert not scans(lines), "\n".join(lines)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_in_the_order_of_an_index(busy: Store, name: str) -> None:
    lines = explained(busy, PAGES[name], sorting=False)
    sorts = [line for line in lines if re.search(r"USE TEMP B-TREE FOR ORDER BY|^(-> +)?Sort\b", line)]
    assert not sorts, "\n".join(lines)


def test_messages_are_looked_for_among_what_is_due_alone(busy: Store) -> None:
    lines = explained(busy, LOOKUPS["due messages"], sorting=False)
    index = "ix_job_items_state_publish_after"
    assert any(index in line or "publish_after <" in line for line in lines), "\n".join(lines)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_read_an_index_alone(busy: Store, name: str) -> None:
    if busy.database.engine.dialect.name == "sqlite":  # PostgreSQL weighs this by what is in memory
        assert all("USING COVERING INDEX" in line for line in explained(busy, COUNTS[name]))


def test_a_page_of_jobs_takes_two_queries_whatever_its_length(busy: Store) -> None:
    counts = []
    for limit in (2, 50, 200):
        seen: list[str] = []

        def catch(
            _connection: Any, _cursor: Any, statement: str, *_more: Any, seen: list[str] = seen
        ) -> None:
            seen.append(statement)

        event.listen(busy.database.engine, "before_cursor_execute", catch)
        documents = job_documents(busy, busy.jobs.find("default", limit=limit).items)
        event.remove(busy.database.engine, "before_cursor_execute", catch)
        assert len(documents) == limit
        counts.append(sum(statement.startswith("SELECT") for statement in seen))
    assert counts == [2, 2, 2]
