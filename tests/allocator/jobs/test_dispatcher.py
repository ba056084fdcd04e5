"""The dispatcher as a process of its own, and before a database that is no longer for this version."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing

import pytest
from sqlalchemy import text

from allocator.base.settings import Settings
from allocator.jobs.machine.dispatcher import Dispatcher
from allocator.store import Store, migrate
from tests.support.jobs import new_job
from tests.support.processes import kill_group, start, wait_until, worker


@pytest.fixture
def submitted(settings: Settings, scripted: None) -> Callable[[Store], str]:
    request = {"model": "local:m", "script": {"calibrate": {"items": 2}}}

    def submitted(store: Store) -> str:
        return new_job(store, settings, "profile", request)

    return submitted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_apart_from_the_api_it_takes_jobs_to_their_end_and_stops_when_told(
    settings: Settings, submitted: Callable[[Store], str], number: signal.Signals
) -> None:
    with closing(Store.open(settings, create=True)) as store:
        job = submitted(store)
        process = start(settings, "-m", "api.cli", "dispatcher")
        try:
            with worker(settings):
                wait_until(lambda: store.jobs.get("default", job).finished_at, "the job ends")
            assert store.jobs.get("default", job).state == "succeeded"
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            kill_group(process)


def test_it_says_at_once_that_the_database_has_no_schema(bare_settings: Settings) -> None:
    process = start(bare_settings, "-m", "api.cli", "dispatcher")
    try:
        assert process.wait(60) == 1
    finally:
        kill_group(process)
    assert "rankalloc db upgrade" in (bare_settings.logs_dir / "process.log").read_text()


def test_nothing_is_published_from_a_database_of_later_versions(
    settings: Settings, submitted: Callable[[Store], str]
) -> None:
    settings = settings.model_copy(update={"reconcile_interval_s": 0.05})
    with closing(Store.open(settings, create=True)) as store:
        head = migrate.head()

        def at(revision: str) -> None:
            with store.database.write() as connection:
                connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})

        at("9999")
        submitted(store)
        dispatcher = Dispatcher(store, settings)
        looked = []
        dispatcher.start()
        try:
            wait_until(
                lambda: looked.append(dispatcher.looked_s_ago()) or len(looked) > 60, "it looks around"
            )
            assert store.wakeups.due()
            at(head)
            wait_until(lambda: not store.wakeups.due(), "it publishes when the schema fits again")
        finally:
            dispatcher.stop()
