"""A whole job in this process, as ``compress`` runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from allocator.base.settings import Settings
from allocator.jobs.document import EventDocument, JobDocument
from allocator.jobs.inline import run_inline
from allocator.jobs.machine.executor import Executor
from allocator.store import Store
from tests.support.jobs import items, types
from tests.support.processes import wait_until
from tests.support.stages import runs

Submit = Callable[..., str]


def test_an_inline_job_reports_every_event_once(
    any_store: Store, any_settings: Settings, submit_job: Submit
) -> None:
    error = {"kind": "ValueError", "item": "profile-1", "times": 1}
    script = {"profile": {"items": 3, "error": error}, "assemble": {"artifact": True}}
    job_id = submit_job(script, inline=True)
    states: list[str] = []
    seen: list[int] = []

    def on_update(document: JobDocument, events: list[EventDocument]) -> None:
        states.append(document.state)
        seen.extend(event.seq for event in events)

    assert run_inline(any_store, any_settings, job_id, on_update) == "succeeded"
    assert seen == list(range(1, len(types(any_store, job_id)) + 1))
    assert states[0] == "queued"
    assert states[-1] == "succeeded"
    assert set(runs(any_settings, "end").values()) == {1}


def test_a_failing_inline_job_says_what_was_wrong(
    any_store: Store, any_settings: Settings, submit_job: Submit
) -> None:
    job_id = submit_job({"prepare": {"error": {"kind": "invalid", "item": "prepare-0"}}}, inline=True)
    assert run_inline(any_store, any_settings, job_id) == "failed"
    error = any_store.jobs.get("default", job_id).error
    assert error is not None
    assert error["exit_code"] == 2


def test_control_c_cancels_the_job(any_store: Store, any_settings: Settings, submit_job: Submit) -> None:
    job_id = submit_job(inline=True)

    def on_update(_document: JobDocument, events: list[EventDocument]) -> None:
        if any(event.type == "test.ran" for event in events):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inline(any_store, any_settings, job_id, on_update)
    assert any_store.jobs.get("default", job_id).state == "cancelled"
    assert list(any_settings.tmp_dir.iterdir()) == []


def test_the_next_command_removes_what_one_that_was_killed_had_done(
    any_store: Store, any_settings: Settings, submit_job: Submit, executor: Executor
) -> None:
    """Where no service runs nobody else would; its last item counts as running for ever."""
    killed = submit_job({"prepare": {"partial": "layer-0", "items": 2}}, inline=True)
    first, second = items(any_store, killed)
    assert executor.execute(first.id, inline=True)
    assert executor.claim(second.id, inline=True)
    wait_until(lambda: not any_store.items.in_hand(killed), "its lease runs out")
    assert killed in any_store.jobs.abandoned_inline()
    assert run_inline(any_store, any_settings, submit_job(inline=True)) == "succeeded"
    assert not list(any_settings.partial_dir.iterdir())
