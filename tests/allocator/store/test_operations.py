"""What is asked of the store by those who run the service, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.store import Store
from allocator.store.clock import seconds_between, utc_in, utcnow
from allocator.store.job_tables import items
from tests.support.jobs import new_job, run_to_end

pytestmark = pytest.mark.usefixtures("scripted")


def job(store: Store, settings: Settings, **script: Any) -> str:
    request = {"model": "local:m", "script": script}
    return new_job(store, settings, "profile", request)


def change(store: Store, job_id: str, **values: Any) -> None:
    with store.database.write() as connection:
        connection.execute(update(items).where(items.c.job_id == job_id).values(**values))


def test_seconds_between_are_fractions_of_either_sign(any_store: Store) -> None:
    with any_store.database.read() as connection:
        later = connection.execute(select(seconds_between(utcnow(), utc_in(12.5)))).scalar_one()
        earlier = connection.execute(select(seconds_between(utcnow(), utc_in(-86401.25)))).scalar_one()
    assert later == pytest.approx(12.5, abs=0.5)
    assert earlier == pytest.approx(-86401.25, abs=0.5)


def test_work_is_due_running_or_silent(any_store: Store, any_settings: Settings) -> None:
    operations = any_store.operations
    assert operations.work().due == 0
    assert operations.work().oldest_wait_s == 0
    first, second, third = (job(any_store, any_settings) for _ in range(3))
    change(any_store, first, not_before=utc_in(-300.0))
    assert operations.work().due == 3
    assert 299 < operations.work().oldest_wait_s < 360
    change(any_store, first, not_before=utc_in(300.0))  # it pauses after a failure
    change(any_store, second, state="running", lease_expires_at=utc_in(60.0))
    change(any_store, third, state="running", lease_expires_at=utc_in(-1.0))
    found = operations.work()
    assert (found.due, found.running, found.silent) == (0, 1, 1)


def test_what_has_ended_is_counted_by_stage_for_as_long_as_asked(
    any_store: Store, any_settings: Settings
) -> None:
    job_id = job(any_store, any_settings, profile={"items": 3})
    assert run_to_end(any_store, Executor(any_store, any_settings), job_id) == "succeeded"
    change(any_store, job_id, started_at=utc_in(-30.0), finished_at=utc_in(-20.0), lost_leases=1)
    found = {each.stage: each for each in any_store.operations.stage_times(hours=1)}
    assert found["profile"].items == 3
    assert found["profile"].seconds == pytest.approx(30, abs=0.1)
    assert found["profile"].longest_s == pytest.approx(10, abs=0.1)
    assert any_store.operations.lost_leases(hours=1) == sum(each.items for each in found.values())
    assert any_store.operations.stage_times(hours=0.001) == []
    assert any_store.operations.lost_leases(hours=0.001) == 0
    # The scripted assembly says nothing of reuse, which counts as measured.
    assert any_store.operations.profiles(hours=1) == {"hit": 0, "miss": 1}


def test_the_clocks_of_this_machine_agree(any_store: Store) -> None:
    assert abs(any_store.operations.clock_skew_s()) < 5
