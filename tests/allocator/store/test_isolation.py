"""What transactions see of each other, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine, make_url, text

from allocator.base.settings import Settings
from allocator.store import Store
from allocator.store.database import Database
from tests.support import servers
from tests.support.jobs import new_job

PATIENCE_S = 60.0
"""Only bounds a test that has failed already."""


def _submitted(store: Store, settings: Settings) -> str:
    return new_job(store, settings, "profile", {"model": "local:m", "script": {}})


def test_what_is_not_committed_is_not_seen(any_store: Store, any_settings: Settings, scripted: None) -> None:
    other = Store.open(any_settings)
    try:
        with ThreadPoolExecutor(1) as pool:

            def seen() -> int:
                return pool.submit(lambda: sum(other.jobs.count_by_state().values())).result(PATIENCE_S)

            with any_store.transaction():
                _submitted(any_store, any_settings)
                assert sum(any_store.jobs.count_by_state().values()) == 1, "by itself"
                assert seen() == 0
            assert seen() == 1
    finally:
        other.close()


def test_what_happens_under_a_job_s_lock_happens_one_after_the_other(
    any_store: Store, any_settings: Settings, scripted: None
) -> None:
    """Each adds one to what it has read; without the lock most of it would be lost."""
    job_id, counter = _submitted(any_store, any_settings), 0
    turns, threads = 20, 4
    start = threading.Barrier(threads)

    def count(store: Store) -> None:
        nonlocal counter
        start.wait(PATIENCE_S)
        for _ in range(turns):
            with store.transaction():
                store.jobs.lock(job_id)
                read = counter
                store.jobs.state(job_id)  # gives the others every chance
                counter = read + 1

    stores = [Store.open(any_settings) for _ in range(threads)]
    try:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(count, store) for store in stores]:
                done.result(PATIENCE_S)
    finally:
        for store in stores:
            store.close()
    assert counter == turns * threads


def test_the_level_is_ours_whatever_the_server_s_default(postgres_server: str) -> None:
    with servers.fresh_database(postgres_server) as url:
        name = make_url(url).database
        engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(
                text(f"ALTER DATABASE {name} SET default_transaction_isolation TO 'serializable'")
            )
        engine.dispose()
        database = Database(url)
        opened: list[Callable] = [database.read, database.write]
        try:
            for begin in opened:
                with begin() as connection:
                    found = connection.execute(text("SHOW transaction_isolation")).scalar()
                assert found == "read committed"
        finally:
            database.close()
