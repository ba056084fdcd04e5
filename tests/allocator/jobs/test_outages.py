"""The database or the broker is away for a while: what is at hand is kept, and nobody is blamed for it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection
from redis.exceptions import ConnectionError as RedisGone

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.machine import celery_app, context
from allocator.jobs.machine.broker import leftovers
from allocator.jobs.machine.dispatcher import Dispatcher
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.heartbeat import Heartbeat
from allocator.jobs.machine.reconciler import give_back
from allocator.store import Store
from allocator.store.database import Database
from tests.support.jobs import items, new_job, run_to_end, types
from tests.support.processes import wait_until
from tests.support.servers import Redis
from tests.support.stages import runs

Submit = Callable[..., str]


@contextmanager
def locked(settings: Settings, seconds: float) -> Iterator[None]:
    """Somebody else holds SQLite's write lock from the block's beginning for so long."""
    holder = sqlite3.connect(settings.home / "rankalloc.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(seconds, holder.rollback)
    release.start()
    yield
    release.join()
    holder.close()


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, times: int) -> Iterator[None]:
    """A method finds no database this often, then works."""
    real, left = getattr(owner, name), [times]

    def unreliable(*arguments: object, **named: object) -> object:
        if left[0]:
            left[0] -= 1
            raise StoreUnavailable("The database does not answer.")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, unreliable)
    yield
    assert left == [0]


def test_a_lease_that_was_renewed_after_it_was_read_is_left_alone(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    claimed = executor.claim(items(any_store, job_id)[0].id)
    assert claimed is not None
    wait_until(any_store.items.orphans, "the lease expires")
    (orphan,) = any_store.items.orphans()
    assert any_store.items.renew(claimed.id, claimed.attempt, 1000.0)
    give_back(any_store, any_settings, orphan, counts=True, expired=True)
    assert any_store.items.owns(claimed.id, claimed.attempt)
    assert "item.lost_lease" not in types(any_store, job_id)


def test_leases_that_ran_out_behind_a_lock_are_not_held_against_workers(
    settings: Settings, store: Store, scripted: None
) -> None:

    settings = settings.model_copy(update={"lease_s": 0.6})
    request = {"model": "m", "script": {}}
    job_id = new_job(store, settings, "profile", request)
    claimed = Executor(store, settings).claim(items(store, job_id)[0].id)
    assert claimed is not None
    dispatcher = Dispatcher(store, settings)
    with locked(settings, 1.0):
        wait_until(store.items.orphans, "the lease runs out meanwhile")
        dispatcher._reconcile()
    dispatcher._reconcile()
    assert store.items.owns(claimed.id, claimed.attempt), "its worker had no chance to renew it"

    def given_back() -> bool:
        dispatcher._reconcile()
        return not store.items.owns(claimed.id, claimed.attempt)

    wait_until(given_back, "a worker that does not renew it after all is given up")


def test_a_finished_result_waits_for_the_database(
    any_store: Store,
    any_settings: Settings,
    submit_job: Submit,
    executor: Executor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit_job()
    with away(monkeypatch, any_store.items, "finish", 2):
        executor.execute(items(any_store, job_id)[0].id)
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    assert set(runs(any_settings, "begin").values()) == {1}
    assert "item.retrying" not in types(any_store, job_id)


def test_an_outage_longer_than_a_worker_waits_is_left_to_the_lease(
    any_store: Store, any_settings: Settings, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_job()
    impatient = Executor(any_store, any_settings.model_copy(update={"outage_s": 0.0}))
    finish = away(monkeypatch, any_store.items, "finish", 1)
    requeue = away(monkeypatch, any_store.items, "requeue", 1)
    with finish, requeue, pytest.raises(StoreUnavailable):
        impatient.execute(items(any_store, job_id)[0].id)
    assert items(any_store, job_id)[0].state == "running"


def test_progress_that_cannot_be_stored_costs_no_work(
    any_store: Store,
    any_settings: Settings,
    submit_job: Submit,
    executor: Executor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(context, "_PROGRESS_INTERVAL_S", 0.0)
    job_id = submit_job()
    with away(monkeypatch, Heartbeat, "beat", 1):
        executor.execute(items(any_store, job_id)[0].id)
    assert any_store.jobs.get("default", job_id).stage == "calibrate"
    assert runs(any_settings, "begin")["prepare/prepare-0"] == 1


def test_a_worker_waits_for_a_database_that_is_not_there_yet(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    patient = Database(f"sqlite:///{folder}/some.db", patience_s=60.0)
    appears = threading.Timer(0.5, folder.mkdir)
    appears.start()
    with patient.write() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    appears.join()
    patient.close()


def test_the_embedded_broker_outlives_its_folder(settings: Settings) -> None:
    import shutil

    app = celery_app.make_celery(settings)
    messages = settings.queue_dir / "messages"
    shutil.rmtree(messages)
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("rankalloc")
        with pytest.raises(queue.Empty):
            queue.get(block=False)
        celery_app.publish(app, "some-item", 0, "rankalloc")
        assert queue.get(block=True, timeout=10).payload[1] == {"item_id": "some-item", "attempt": 0}
        (messages / "1-x.rankalloc.msg.taken").touch()
        (messages / "1-y.rankalloc.msg").touch()
        assert [path.name for path in leftovers(messages)] == ["1-x.rankalloc.msg.taken"]
        queue.close()
    app.close()


def test_a_message_that_cannot_be_acknowledged_does_not_keep_its_worker_from_asking(
    settings: Settings,
) -> None:
    server = Redis()
    try:
        app = celery_app.make_celery(settings.model_copy(update={"broker_url": server.url}))
        celery_app.publish(app, "some-item", 0, "rankalloc")
        with Connection(server.url) as connection:
            channel = connection.channel()
            channel.basic_qos(0, 1, False)
            message = None
            deadline = time.monotonic() + 10
            while message is None and time.monotonic() < deadline:
                message = channel.basic_get("rankalloc")
            assert message is not None
            channel.qos.append(message, message.delivery_tag)
            assert not channel.qos.can_consume(), "one at a time"
            server.kill()
            with pytest.raises(RedisGone):
                channel.qos.ack(message.delivery_tag)
            assert channel.qos.can_consume()
            server.start()
        app.close()
    finally:
        server.remove()
