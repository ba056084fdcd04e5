"""Real worker processes, killed, stopped and doubled, over the embedded broker and over Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from allocator.base.settings import Settings
from allocator.jobs.document import job_document
from allocator.jobs.machine.dispatcher import Dispatcher
from allocator.jobs.machine.supervisor import Supervisor
from allocator.jobs.machine.worker import queues
from allocator.jobs.submit import cancel
from allocator.store import Store
from tests.support.jobs import new_job, types
from tests.support.processes import environment, group_is_empty, kill_group, start, wait_until, worker
from tests.support.stages import runs

SCRIPT = {"calibrate": {"items": 2}, "profile": {"items": 3, "gate": "profile-1"}}
DOOMED = "profile/profile-1"
"""The item during which workers are killed: it waits for the gate to open."""


@pytest.fixture(params=["filesystem", "redis"])
def service(request: pytest.FixtureRequest, settings: Settings) -> Iterator[tuple[Settings, Store]]:
    """A store and a running dispatcher, without a worker."""
    if request.param == "redis":
        # Shared by all tests: messages that an earlier one left speak of unknown items and do nothing.
        settings = settings.model_copy(update={"broker_url": request.getfixturevalue("redis_url")})
    store = Store.open(settings, create=True)
    dispatcher = Dispatcher(store, settings)
    dispatcher.start()
    yield settings, store
    dispatcher.stop()
    store.close()


@pytest.fixture
def submit_to(scripted: None) -> Callable[..., str]:
    def submit_to(store: Store, settings: Settings, script: dict[str, Any]) -> str:
        request = {"model": "local:m", "script": script}
        return new_job(store, settings, "profile", request)

    return submit_to


def _ended(store: Store, job_id: str) -> Callable[[], object]:
    return lambda: store.jobs.get("default", job_id).finished_at


def test_a_killed_worker_loses_one_item_and_no_finished_one_runs_twice(
    service: tuple[Settings, Store], submit_to: Callable[..., str]
) -> None:
    settings, store = service
    job_id = submit_to(store, settings, SCRIPT)
    with worker(settings) as first:
        wait_until(lambda: runs(settings, "begin")[DOOMED], "the worker is in the middle of an item")
        done_before = runs(settings, "end")
        kill_group(first, signal.SIGKILL)
    (settings.home / "gate").touch()
    with worker(settings):
        wait_until(_ended(store, job_id), "the job ends after the lease has expired")
    assert store.jobs.get("default", job_id).state == "succeeded"
    assert runs(settings, "begin")[DOOMED] == 2
    assert set(runs(settings, "end").values()) == {1}, "a finished item ran twice"
    assert all(runs(settings, "begin")[item] == 1 for item in done_before)
    assert types(store, job_id).count("item.lost_lease") == 1
    assert [result["item"] for result in store.items.results(job_id)["profile"]] == [
        "profile-0",
        "profile-1",
        "profile-2",
    ]


def test_a_worker_frozen_beyond_its_lease_changes_nothing_when_it_wakes(
    service: tuple[Settings, Store], submit_to: Callable[..., str]
) -> None:
    settings, store = service
    job_id = submit_to(store, settings, SCRIPT)
    with worker(settings) as zombie:
        wait_until(lambda: runs(settings, "begin")[DOOMED], "the worker is in the middle of an item")
        with (
            store.transaction()
        ):  # so that who is frozen does not hold SQLite's write lock, which the others need
            kill_group(zombie, signal.SIGSTOP)
        (settings.home / "gate").touch()
        with worker(settings):
            wait_until(_ended(store, job_id), "another worker ends the job")
            seen = types(store, job_id)
            kill_group(zombie, signal.SIGCONT)
            log = settings.logs_dir / "process.log"
            wait_until(lambda: "lost its lease" in log.read_text(), "the zombie finds that its lease is lost")
    assert store.jobs.get("default", job_id).state == "succeeded"
    assert types(store, job_id) == seen
    assert set(runs(settings, "end").values()) == {1}


def test_two_workers_share_a_job_without_doing_anything_twice(
    service: tuple[Settings, Store], submit_to: Callable[..., str]
) -> None:
    settings, store = service
    with worker(settings), worker(settings):
        job_id = submit_to(store, settings, {"calibrate": {"items": 12}, "profile": {"items": 12}})
        wait_until(_ended(store, job_id), "the job ends")
    assert store.jobs.get("default", job_id).state == "succeeded"
    assert set(runs(settings, "begin").values()) == {1}


def test_a_job_for_a_gpu_waits_for_its_own_worker_and_says_so(
    service: tuple[Settings, Store], scripted: None
) -> None:
    """Stages that run a model go to the GPU's queue, the others to everybody; the worker that has no GPU leaves them alone."""
    settings, store = service
    for_gpu, for_all = (
        new_job(store, settings, "profile", {"model": "local:m", "script": {}, **device})
        for device in ({"device": "cuda"}, {})
    )
    gpu = settings.model_copy(update={"worker_queues": ["rankalloc.gpu"]})
    with worker(settings):
        wait_until(_ended(store, for_all), "the other job ends")
        wait_until(lambda: runs(settings, "end")["prepare/prepare-0"] == 2, "reading the model needs no GPU")
        shown = job_document(store, store.jobs.get("default", for_gpu))
        assert (shown.state, shown.stage) == ("running", "calibrate")
        assert "GPU worker" in shown.queue_reason
        assert runs(settings, "begin")["calibrate/calibrate-0"] == 1
        with worker(gpu):
            wait_until(_ended(store, for_gpu), "the job ends")
    assert store.jobs.get("default", for_gpu).state == "succeeded"


def test_what_a_worker_listens_to_follows_from_its_device(settings: Settings) -> None:
    for changes, expected in (
        ({}, ["rankalloc"]),
        ({"device": "cuda"}, ["rankalloc.gpu"]),
        ({"device": "cuda", "worker_queues": ["rankalloc", "rankalloc.gpu"]}, ["rankalloc", "rankalloc.gpu"]),
    ):
        assert queues(settings.model_copy(update=changes)) == expected


def test_a_running_job_is_cancelled_from_another_process(
    service: tuple[Settings, Store], submit_to: Callable[..., str]
) -> None:
    settings, store = service
    job_id = submit_to(store, settings, SCRIPT)
    with worker(settings):
        wait_until(lambda: runs(settings, "begin")[DOOMED], "the worker is in the middle of an item")
        cancel(store, team="default", job_id=job_id, by="me")
        wait_until(_ended(store, job_id), "the worker notices")
        assert store.jobs.get("default", job_id).state == "cancelled"
        second = submit_to(store, settings, {})
        wait_until(_ended(store, second), "the worker goes on with other jobs")
    assert store.jobs.get("default", second).state == "succeeded"
    assert runs(settings, "end")["profile/profile-2"] == 0


def test_what_was_committed_by_a_process_that_died_is_published_by_another(
    settings: Settings, store: Store
) -> None:
    code = (
        "import os; from allocator.jobs.submit import submit; from allocator.base.settings import Settings\n"
        "from allocator.stages.request import Request; from allocator.store import Store\n"
        "settings = Settings(); store = Store.open(settings)\n"
        "submit(store, settings, team='default', request=Request(kind='profile', model='m'), created_by='me')\n"
        "os._exit(9)"
    )
    assert start(settings, "-c", code).wait() == 9
    (job,) = store.jobs.find("default").items
    dispatcher = Dispatcher(store, settings)
    dispatcher.start()
    with worker(settings):
        wait_until(_ended(store, job.id), "the job ends")
    dispatcher.stop()
    assert store.jobs.get("default", job.id).state == "succeeded"


def test_a_child_that_dies_by_itself_crashes_the_job_in_the_end(
    settings: Settings, store: Store, submit_to: Callable[..., str]
) -> None:
    settings = settings.model_copy(update={"lease_s": 0.6, "max_attempts": 2})
    dispatcher = Dispatcher(store, settings)
    dispatcher.start()
    job_id = submit_to(store, settings, {"prepare": {"error": {"kind": "exit", "item": "prepare-0"}}})
    with worker(settings):
        wait_until(_ended(store, job_id), "the job is given up")
    dispatcher.stop()
    job = store.jobs.get("default", job_id)
    assert job.state == "crashed"
    assert runs(settings, "begin")["prepare/prepare-0"] == 2


def test_the_supervisor_replaces_a_dead_worker_at_once_and_leaves_nobody_behind(
    settings: Settings, store: Store, submit_to: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lease far longer than the test: what is given back sooner was given back by the supervisor.
    settings = settings.model_copy(update={"lease_s": 3600.0})
    monkeypatch.setenv("PYTHONPATH", environment(settings)["PYTHONPATH"])
    dispatcher, supervisor = Dispatcher(store, settings), Supervisor(store, settings)
    dispatcher.start()
    supervisor.start()
    job_id = submit_to(store, settings, SCRIPT)
    wait_until(lambda: runs(settings, "begin")[DOOMED], "the worker is in the middle of an item")
    first = supervisor.worker_pid
    assert first is not None
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    assert os.getpriority(os.PRIO_PROCESS, first) == niceness
    session = Path(f"/proc/{first}/autogroup")
    assert not session.exists() or session.read_text().endswith(f"nice {niceness}\n")

    os.kill(first, signal.SIGKILL)  # the parent only: its child is left alone with the item
    wait_until(lambda: supervisor.worker_pid != first, "a new worker")
    # Killed processes of a busy machine take a moment to go; one that was not killed would stay at the gate for good.
    wait_until(lambda: group_is_empty(first), "the dead worker's child is gone")
    (settings.home / "gate").touch()
    wait_until(_ended(store, job_id), "the job ends")
    second = supervisor.worker_pid
    assert second is not None
    supervisor.stop()
    dispatcher.stop()
    wait_until(lambda: group_is_empty(second), "nobody is left behind")
    assert store.jobs.get("default", job_id).state == "succeeded"
    assert set(runs(settings, "end").values()) == {1}


def test_a_stopped_service_gives_its_item_back(
    settings: Settings, store: Store, submit_to: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"lease_s": 3600.0, "worker_stop_s": 0.2})
    monkeypatch.setenv("PYTHONPATH", environment(settings)["PYTHONPATH"])
    dispatcher, supervisor = Dispatcher(store, settings), Supervisor(store, settings)
    dispatcher.start()
    supervisor.start()
    job_id = submit_to(store, settings, SCRIPT)
    wait_until(lambda: runs(settings, "begin")[DOOMED], "the worker is in the middle of an item")
    supervisor.stop()
    dispatcher.stop()
    (given_back,) = [item for item in store.items.of_stage(job_id, "profile") if item.key == "profile-1"]
    assert (given_back.state, given_back.lost_leases) == ("queued", 0)
    assert store.jobs.get("default", job_id).state == "running"
