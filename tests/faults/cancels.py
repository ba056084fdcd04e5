"""Cancelling, at any time, racing with finishing and with death."""

from __future__ import annotations

import threading

from allocator.base.errors import Conflict
from allocator.jobs.submit import cancel
from allocator.stages.kinds import SEQUENCES
from tests.faults.registry import Ends, fault
from tests.faults.world import World, scripted


@fault("cancel")
def cancel_in_every_stage(world: World) -> Ends:
    """Cancelled in every stage, at any moment of it, racing with its end"""
    world.dispatcher()
    for _ in range(2):
        world.worker()
    quick = scripted(calibrate={"items": 1}, profile={"items": 1, "units": 1})
    stages = SEQUENCES["compress"]
    ends: dict[str, set[str]] = {}
    for stage in stages:
        job = world.submit(quick)
        delay_s = world.chance.uniform(0.0, 0.15)
        waiter = threading.Thread(target=_cancel_at, args=(world, job, stage, delay_s, ends))
        waiter.start()
        waiter.join()
    world.wait_for_jobs()
    return ends


def _cancel_at(world: World, job: str, stage: str, delay_s: float, ends: dict[str, set[str]]) -> None:
    world.wait(
        lambda: world.over(job) or world.store.jobs.by_id(job).stage == stage, f"the job enters {stage}"
    )
    threading.Event().wait(delay_s)
    try:
        cancel(world.store, team="default", job_id=job, by="me")
        ends[job] = {"cancelled"}
    except Conflict:
        ends[job] = {"succeeded"}
