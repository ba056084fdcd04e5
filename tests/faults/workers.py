"""Faults of workers: killed, frozen, poisoned, with a wrong clock, without room to write."""

from __future__ import annotations

import resource
import signal

from tests.faults.registry import Ends, fault
from tests.faults.world import World, scripted
from tests.support.processes import children, kill_group

WRITING = ("apply", "heal", "report")
POINTS = ("begin", "unit", "writing", "before-publish", "between", "after-publish", "end")


@fault("worker-killed")
def worker_killed(world: World) -> None:
    """SIGKILL of a worker and all its children, at any time, several times"""
    world.dispatcher()
    job = world.submit()
    for _ in range(world.chance.randint(1, 2)):
        doomed = world.worker()
        world.wait(lambda seen=_begun(world): _begun(world) > seen or world.over(), "a worker takes an item")
        world.pause(0.8)
        world.kill(doomed)
    world.worker()
    world.wait_for_jobs(job)


@fault("child-killed")
def child_killed(world: World) -> None:
    """SIGKILL of the process that works, in every stage, at a random point, also between a rename and its commit"""
    world.with_settings(lease_s=0.8)
    stages = scripted()
    names = ("prepare", "calibrate", "surroundings", "profile", "assemble", "allocate", "refine")
    for name in (*names, *WRITING, "evaluate"):
        entry = stages.setdefault(name, {})
        points = [
            point
            for point in POINTS
            if (point != "unit" or "units" in entry)
            and (point in ("begin", "unit", "end") or "writes" in entry)
        ]
        entry["die"] = {"at": world.chance.choice(points)}
    world.dispatcher()
    world.submit(stages)
    for _ in range(2):  # the one takes over while the other replaces its child
        world.worker()
    world.wait_for_jobs()


@fault("rename-uncommitted")
def rename_uncommitted(world: World) -> Ends:
    """Death between the rename and the commit of an artifact that replaces another; the job is then cancelled"""
    from allocator.jobs.submit import cancel

    world.dispatcher()
    dies = {"die": {"at": "between", "times": 99}}
    doomed, lucky = (world.submit(scripted(heal=entry)) for entry in (dies, {"die": {"at": "between"}}))
    world.worker()

    def has_died() -> bool:
        return any(item.lost_leases for item in world.store.items.of_stage(doomed, "heal"))

    world.wait(has_died, "the healing dies")
    cancel(world.store, team="default", job_id=doomed)
    world.wait_for_jobs()
    return {doomed: {"cancelled"}, lucky: {"succeeded"}}


@fault("worker-frozen")
def worker_frozen(world: World) -> None:
    """SIGSTOP beyond the lease, then SIGCONT while another works, or when all is done"""
    world.dispatcher()
    world.submit()
    zombie = world.worker()
    world.wait(
        lambda: world.begun(world.chance.choice(("calibrate", "profile", "apply"))) or world.over(), "an item"
    )
    world.pause(0.4)
    kill_group(zombie, signal.SIGSTOP)
    world.worker()
    if world.chance.random() < 0.5:
        world.wait_for_jobs()
        kill_group(zombie, signal.SIGCONT)
        # It ends an item that is not its own any more: the audit sees whether that left anything.
        world.wait(lambda: not list(world.settings.tmp_dir.iterdir()), "the zombie removes what it wrote")
    else:
        world.pause(3 * world.settings.lease_s)
        kill_group(zombie, signal.SIGCONT)
        world.wait_for_jobs()
        world.wait(lambda: not list(world.settings.tmp_dir.iterdir()), "both have removed what they wrote")


@fault("wrong-clock")
def wrong_clock(world: World) -> None:
    """Two workers' clocks are wrong by up to a day; leases are the database's"""
    day_s = 86_400.0
    world.dispatcher()
    world.worker(clock_off_s=world.chance.uniform(60.0, day_s))
    world.worker(clock_off_s=world.chance.uniform(-day_s, -60.0))
    # Items that outlast their leases: whoever judged by another clock would take them away, or never.
    world.submit(scripted(calibrate={"items": 1, "pause_s": 1.5 * world.settings.lease_s}))
    world.submit(scripted(profile={"die": {"at": "unit"}}))
    world.wait_for_jobs()


@fault("poison")
def poison(world: World) -> Ends:
    """An item kills every process that tries it: given up with its last words, others go on"""
    world.with_settings(max_attempts=2, lease_s=0.8)
    says = "RuntimeError: HF_TOKEN=hf_abcdefghijklmnop in /srv/models/secret-model/weights.bin: bad block 7"
    point = world.chance.choice(("begin", "unit", "end"))
    deadly = world.submit(scripted(profile={"die": {"at": point, "times": 99, "says": says}}))
    innocent = world.submit()
    world.dispatcher()
    world.worker()
    world.worker()
    world.wait_for_jobs()
    error = world.store.jobs.by_id(deadly).error
    assert error is not None, "a poisoned job has no error"
    assert error["type"] == "crashed", error
    assert "bad block 7" in error["log_tail"][-1], f"without its last words: {error}"
    assert not [word for word in ("/srv", "secret-model", "hf_abc") if word in str(error)], (
        f"says too much: {error}"
    )
    return {deadly: {"crashed"}, innocent: {"succeeded"}}


@fault("disk-full")
def disk_full(world: World) -> Ends:
    """No room for a checkpoint (RLIMIT_FSIZE): failed with the reason, nothing half written; works when there is room"""
    world.with_settings(max_attempts=2)
    script = scripted(**{world.chance.choice(("apply", "heal")): {"writes": {"compact": 12_000_000}}})
    world.dispatcher()
    worker = world.worker(largest_file=8_000_000)
    first = world.submit(script)
    world.wait_for_jobs()
    error = world.store.jobs.by_id(first).error
    assert error is not None, "a job that found no room succeeded"
    assert (error["type"], "8,000,000 bytes" in error["detail"]) == ("storage_full", True), (
        f"no clear reason: {error}"
    )
    for pid in (worker.pid, *children(worker.pid)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = world.submit(script)
    world.wait_for_jobs()
    return {first: {"failed"}, again: {"succeeded"}}


def _begun(world: World) -> int:
    return sum(
        event.type == "item.started"
        for job_id in world.jobs
        for event in world.store.events.list("default", job_id)
    )
