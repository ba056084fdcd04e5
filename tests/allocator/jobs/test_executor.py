"""Claiming, finishing, retrying: on SQLite and PostgreSQL, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from allocator.base.errors import LeaseLost
from allocator.base.settings import Settings
from allocator.jobs.document import job_document
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile
from allocator.store import Store
from tests.support.jobs import items, run_to_end, types
from tests.support.processes import wait_until
from tests.support.stages import runs

Submit = Callable[..., str]


def test_a_job_walks_through_its_stages(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"calibrate": {"items": 2}, "profile": {"items": 3}, "assemble": {"items": 0}})
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    assert set(runs(any_settings, "end").values()) == {1}
    results = any_store.items.results(job_id)
    assert [result["item"] for result in results["profile"]] == ["profile-0", "profile-1", "profile-2"]
    assert results["profile"][0]["before"] == {"prepare": 1, "calibrate": 2, "surroundings": 1}
    assert types(any_store, job_id)[-2:] == ["stage.skipped", "job.succeeded"]
    job = any_store.jobs.get("default", job_id)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at


def test_siblings_finishing_at_once_enter_the_next_stage_once(
    any_store: Store, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"items": 8}})
    claimed = [executor.claim(item.id) for item in items(any_store, job_id)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: executor.finish(item, {}), filter(None, claimed)))
    assert any_store.jobs.get("default", job_id).stage == "calibrate"
    assert types(any_store, job_id).count("stage.started") == 2
    assert len(items(any_store, job_id)) == 1


def test_an_item_is_claimed_by_one_of_many(any_store: Store, submit_job: Submit, executor: Executor) -> None:
    (item,) = items(any_store, submit_job())
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: executor.claim(item.id), range(16)))
    assert sum(claim is not None for claim in claims) == 1


def test_the_claim_itself_writes_the_lease(any_store: Store, submit_job: Submit, executor: Executor) -> None:
    (item,) = items(any_store, submit_job())
    assert executor.claim(item.id) is not None
    assert any_store.items.orphans() == [], "a lease was missing right after the claim"
    wait_until(any_store.items.orphans, "a worker that died before its first heartbeat is noticed")


def test_a_zombie_cannot_finish_renew_or_report(
    any_store: Store, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    (queued,) = items(any_store, job_id)
    zombie = executor.claim(queued.id)
    assert zombie is not None
    wait_until(any_store.items.orphans, "the zombie's lease expires")
    second = executor.claim(queued.id)
    assert second is not None
    assert second.attempt == zombie.attempt + 1

    with pytest.raises(LeaseLost):
        executor.finish(zombie, {"by": "zombie"})
    assert not any_store.items.renew(zombie.id, zombie.attempt, 30.0)
    assert not any_store.items.requeue(zombie.id, zombie.attempt)
    executor.finish(second, {"by": "second"})
    assert any_store.items.results(job_id) == {"prepare": [{"by": "second"}]}
    assert types(any_store, job_id).count("item.finished") == 1
    assert "item.lost_lease" in types(any_store, job_id)


def test_a_zombie_cannot_write_after_its_item_was_requeued(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    (queued,) = items(any_store, submit_job())
    zombie = executor.claim(queued.id)
    assert zombie is not None
    wait_until(any_store.items.orphans, "the zombie's lease expires")
    reconcile(any_store, any_settings)
    with pytest.raises(LeaseLost):
        executor.finish(zombie, {})


def test_doubled_and_stale_messages_do_nothing(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job()
    messages = any_store.wakeups.due()
    assert [executor.execute(m.item_id, m.attempt) for m in messages * 3] == [True, False, False]
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    assert not any(executor.execute(m.item_id, m.attempt) for m in messages)
    assert not executor.execute("01ARZ3NDEKTSV4RRFFQ69G5FAV", 0), "a message for an item that is gone"
    assert set(runs(any_settings, "end").values()) == {1}


@pytest.mark.parametrize("kind", ["ValueError", "outage"])
def test_a_failing_item_is_tried_again(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor, kind: str
) -> None:
    error = {"kind": kind, "item": "prepare-0", "times": 2}
    job_id = submit_job({"prepare": {"error": error}})
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    assert runs(any_settings, "begin")["prepare/prepare-0"] == 3
    assert types(any_store, job_id).count("item.retrying") == 2


def test_an_item_that_keeps_failing_ends_its_job_without_showing_paths(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    error = {"kind": "ValueError", "item": "prepare-1"}
    job_id = submit_job({"prepare": {"items": 3, "error": error}})
    assert run_to_end(any_store, executor, job_id) == "failed"
    assert runs(any_settings, "begin")["prepare/prepare-1"] == any_settings.max_attempts
    job = any_store.jobs.get("default", job_id)
    assert job.error is not None
    assert (job.error["type"], job.error["stage"], job.error["item"]) == ("internal", "prepare", "prepare-1")
    assert "/a/path" not in str(job_document(any_store, job))
    assert "/a/path" not in str(any_store.events.list("default", job_id))


def test_an_error_meant_for_people_ends_the_job_at_once(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    error = {"kind": "invalid", "item": "prepare-0"}
    job_id = submit_job({"prepare": {"items": 2, "error": error}})
    assert run_to_end(any_store, executor, job_id) == "failed"
    assert runs(any_settings, "begin")["prepare/prepare-0"] == 1
    job = any_store.jobs.get("default", job_id)
    assert job.error is not None
    assert (job.error["type"], job.error["detail"]) == ("invalid_input", "this item is wrong")
    assert job.error["exit_code"] == 2
    assert {item.state for item in items(any_store, job_id)} <= {"failed", "cancelled", "succeeded"}


@pytest.mark.parametrize(("kind", "expected"), [("invalid", "invalid_input"), ("bug", "internal")])
def test_a_stage_that_cannot_list_its_items_fails_the_job_but_keeps_the_result(
    any_store: Store, submit_job: Submit, executor: Executor, kind: str, expected: str
) -> None:
    job_id = submit_job({"calibrate": {"items_error": kind}})
    assert run_to_end(any_store, executor, job_id) == "failed"
    job = any_store.jobs.get("default", job_id)
    assert job.error is not None
    assert job.error["type"] == expected
    assert len(any_store.items.results(job_id)["prepare"]) == 1


def test_progress_counts_all_items_of_the_stage(
    any_store: Store, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"items": 4}})
    first, second, *_ = items(any_store, job_id)

    def progress() -> dict[str, object]:
        shown = job_document(any_store, any_store.jobs.get("default", job_id)).progress
        assert shown is not None
        return shown.document

    assert progress() == {"done": 0, "total": 4, "unit": "items"}
    executor.execute(first.id)
    assert progress() == {"done": 2, "total": 8, "unit": "steps"}
    claimed = executor.claim(second.id)
    assert claimed is not None
    assert any_store.items.renew(claimed.id, claimed.attempt, 30.0, (1, 2, "steps"))
    assert progress() == {"done": 3, "total": 8, "unit": "steps"}


def test_artifacts_are_renamed_into_place_and_recorded(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"artifact": True}})
    folder = any_settings.artifacts_dir / job_id
    # What an attempt leaves that dies between renaming and committing:
    (folder / "compact").mkdir(parents=True)
    (folder / "compact" / "stale").touch()
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    rows = {row["name"]: row for row in any_store.artifacts.list("default", job_id)}
    assert set(rows) == {"compact/inner/weights.bin", "report.json"}
    for name, row in rows.items():
        content = (folder / name).read_bytes()
        assert (row["size"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert not (folder / "compact" / "stale").exists()
    assert list(any_settings.tmp_dir.iterdir()) == []
