"""What dead processes leave behind, and what they said at the end."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from allocator.base.errors import StorageFull
from allocator.base.settings import Settings
from allocator.jobs.host import crash_log, disk_full
from allocator.jobs.host.cleanup import sweep
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import release
from allocator.jobs.submit import cancel
from allocator.store import Item, Store
from tests.support.damage import age
from tests.support.jobs import items, run_to_end

Submit = Callable[..., str]


@pytest.fixture
def claimed(any_store: Store, submit_job: Submit, executor: Executor) -> Item:
    item = executor.claim(items(any_store, submit_job())[0].id)
    assert item is not None
    return item


def _scratch(settings: Settings, item: Item, attempt: int) -> list[str]:
    folder = settings.tmp_dir / f"{item.id}-{attempt}"
    folder.mkdir()
    (folder / "half.safetensors").write_bytes(b"half")
    crash_log.file_of(settings, item.id, attempt).write_text("words\n")
    return [folder.name, f"{folder.name}.log"]


def test_scratch_goes_when_its_attempt_is_over_and_not_before(
    any_store: Store, any_settings: Settings, claimed: Item
) -> None:
    live = _scratch(any_settings, claimed, claimed.attempt)
    (any_settings.tmp_dir / "something-else").mkdir()
    foreign = any_settings.tmp_dir / f"{'0' * 26}-1"
    foreign.mkdir()
    assert sweep(any_store, any_settings) == []
    cancel(any_store, team="default", job_id=claimed.job_id, by="me")
    release(any_store, any_settings, claimed.lease_owner, counts=True)
    assert sorted(path.name for path in sweep(any_store, any_settings)) == live
    old = time.time() - 7200
    os.utime(foreign, (old, old))
    assert sweep(any_store, any_settings) == [foreign]
    assert [path.name for path in any_settings.tmp_dir.iterdir()] == ["something-else"]


def test_partial_results_go_with_their_job_and_not_before(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    """A process that stops leaves them to the next attempt; whoever ends the job removes them, or clean-up does."""
    script = {"prepare": {"partial": "layer-0"}}
    ends, cancelled = submit_job(script), submit_job(script)
    for job_id in (ends, cancelled):
        assert executor.execute(items(any_store, job_id)[0].id)
        assert (any_settings.partial_dir / job_id / "prepare-0" / "layer-0").read_text() == "prepare-0"
    foreign = any_settings.partial_dir / ("0" * 26)
    foreign.mkdir()
    assert sweep(any_store, any_settings) == [], "both jobs go on, and the third may be another database's"
    wrong = {"error": {"kind": "invalid", "item": "calibrate-0"}}
    assert run_to_end(any_store, executor, submit_job({**script, "calibrate": wrong})) == "failed"
    assert {path.name for path in any_settings.partial_dir.iterdir()} == {ends, cancelled, foreign.name}
    assert run_to_end(any_store, executor, ends) == "succeeded"
    assert {path.name for path in any_settings.partial_dir.iterdir()} == {cancelled, foreign.name}
    cancel(any_store, team="default", job_id=cancelled, by="me")
    age(foreign)
    assert sorted(sweep(any_store, any_settings)) == sorted([any_settings.partial_dir / cancelled, foreign])


def test_what_an_item_lets_go_of_stays_until_its_result_is_stored(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor, monkeypatch: Any
) -> None:
    job_id = submit_job({"prepare": {"partial": "layer-0", "let_go": True}})
    (queued,) = items(any_store, job_id)
    folder = any_settings.partial_dir / job_id / "prepare-0"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(executor, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            executor.execute(queued.id)
    assert folder.is_dir(), "the next attempt goes on from it"
    assert executor.execute(queued.id)
    assert not folder.exists()


def test_files_that_no_row_speaks_of_go_with_the_end_of_their_job(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    job_id = submit_job({"prepare": {"artifact": True}})
    folder = any_settings.artifacts_dir / job_id
    (folder / "padded" / "inner").mkdir(parents=True)
    (folder / "padded" / "inner" / "weights.bin").touch()
    (folder / "compact").mkdir()
    assert sweep(any_store, any_settings) == [], "its attempt may be about to record it"
    assert run_to_end(any_store, executor, job_id) == "succeeded"
    (folder / "compact" / "half.bin").touch()
    sweep(any_store, any_settings)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == ["compact", "compact/inner", "compact/inner/weights.bin", "report.json"]


def test_half_messages_go_when_nobody_can_be_busy_with_them(any_store: Store, any_settings: Settings) -> None:
    folder = any_settings.queue_dir / "messages"
    folder.mkdir()
    names = ("1.rankalloc.msg", "2.rankalloc.msg.taken", "3.rankalloc.msg.writing", "4.rankalloc.msg.taken")
    for name in names:
        (folder / name).touch()
    old = time.time() - 7200
    for name in names[:3]:
        os.utime(folder / name, (old, old))
    sweep(any_store, any_settings)
    assert sorted(path.name for path in folder.iterdir()) == [names[0], names[3]]


def test_a_replaced_artifact_is_forgotten_before_its_file_goes(any_store: Store, claimed: Item) -> None:
    job_id = claimed.job_id
    for name in ("compact/a.bin", "compact/b/c.bin", "compact_2/a.bin", "compact%", "padded"):
        any_store.artifacts.add("default", job_id, name, 1, "a" * 64, f"{job_id}/{name}")
    any_store.artifacts.forget(job_id, "compact")
    any_store.artifacts.forget(job_id, "padded")
    assert any_store.artifacts.paths(job_id) == {f"{job_id}/compact_2/a.bin", f"{job_id}/compact%"}


def test_last_words_survive_a_killed_process_without_paths_and_secrets(
    any_store: Store, any_settings: Settings, claimed: Item
) -> None:
    said = (
        "\x1b[31mloading /srv/models/secret model.bin and ~/private/x.txt\x1b[0m\n"
        "postgresql+psycopg://rankalloc:hunter2@db/rankalloc HF_TOKEN=hf_abcdefghij password: 'hunter2'\n"
        'Authorization: Bearer abc.def\n\n  File "/usr/lib/python3/x.py", line 3 in step\n'
        + "y" * 1000
        + "\n"
    )
    child = os.fork()
    if child == 0:
        with crash_log.recorded_stderr(any_settings, claimed):
            os.write(2, said.encode())
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    lines = crash_log.tail(any_settings, claimed)
    assert lines[0] == "loading secret model.bin and x.txt"
    assert lines[1] == "postgresql+psycopg://...@db/rankalloc HF_TOKEN=... password: ..."
    assert lines[2] == "Authorization: ..."
    assert lines[3] == '  File "x.py", line 3 in step'
    assert lines[4] == "y" * 300 + " ..."
    settings = any_settings.model_copy(update={"max_attempts": 1})
    release(any_store, settings, claimed.lease_owner, counts=True)
    error = any_store.jobs.by_id(claimed.job_id).error
    assert error is not None
    assert error["type"] == "crashed"
    assert error["log_tail"] == lines


def test_what_is_said_while_an_item_runs_still_reaches_standard_error(
    any_settings: Settings, claimed: Item, capfd: pytest.CaptureFixture[str]
) -> None:
    with crash_log.recorded_stderr(any_settings, claimed):
        os.write(2, b"during\n")
        assert crash_log.tail(any_settings, claimed) == ["during"]
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "during\nafter\n"
    assert list(any_settings.tmp_dir.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_room_to_write_is_told_from_other_errors(settings: Settings, number: int, wrapped: bool) -> None:
    error: Any = OSError(number, os.strerror(number))
    if wrapped:
        # As safetensors says it.
        error = RuntimeError(f"Error while serializing: I/O error: ... (os error {number})")
    found = disk_full.storage_full(error, settings)
    assert isinstance(found, StorageFull)
    assert "bytes" in found.detail
    assert str(settings.home) not in found.detail


def test_other_errors_are_not_taken_for_want_of_room(settings: Settings) -> None:
    for error in (ValueError("disk full?"), OSError(errno.EACCES, "no"), RuntimeError("(os error 2)")):
        assert disk_full.storage_full(error, settings) is None
