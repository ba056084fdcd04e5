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
    slow = {"pause_s": 0.2}
    stages = ("calibrate", "profile", "apply", "heal")
    world.submit(scripted(**dict.fromkeys(stages, slow)))
    for stage in sorted(world.chance.sample(stages, 2), key=stages.index):
        doomed = world.worker()
        world.wait(lambda stage=stage: world.begun(stage), f"a worker is at {stage}")
        world.pause(0.5)
        world.kill(doomed)
    world.worker()
    world.wait_for_jobs()


@fault("child-killed")
def child_killed(world: World) -> None:
    """SIGKILL of the process that works, in every stage, at a random point, also between a rename and its commit"""
    world.with_settings(lease_s=0.4)
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
    cancel(world.store, team="default", job_id=doomed, by="me")
    world.wait_for_jobs()
    return {doomed: {"cancelled"}, lucky: {"succeeded"}}


@fault("worker-frozen")
def worker_frozen(world: World) -> None:
    """SIGSTOP beyond the lease, then SIGCONT while another does the same item, or when all is done"""
    stage = world.chance.choice(("calibrate", "profile", "apply", "heal"))
    # Long enough for both to be at it.
    world.submit(scripted(**{stage: {"items": 1, "pause_s": 1.5}}))
    world.dispatcher()
    zombie = world.worker()
    world.wait(lambda: world.begun(stage), "the item is begun")
    world.pause(1.0)
    kill_group(zombie, signal.SIGSTOP)
    world.worker()
    (job,) = world.jobs
    if world.chance.random() < 0.7:

        def taken_over() -> bool:
            return world.over() or any(item.attempt > 1 for item in world.store.items.of_stage(job, stage))

        world.wait(taken_over, "another takes the item over")
        world.pause(1.0)
    else:
        world.wait_for_jobs()
    kill_group(zombie, signal.SIGCONT)
    world.wait_for_jobs()
    world.wait(lambda: not list(world.settings.tmp_dir.iterdir()), "both have removed what they wrote")


@fault("wrong-clock")
def wrong_clock(world: World) -> None:
    """Two workers' clocks are wrong by up to a day; leases are the database's"""
    day_s = 86_400.0
    world.with_settings(lease_s=2.0)
    world.dispatcher()
    world.worker(clock_off_s=world.chance.uniform(60.0, day_s))
    world.worker(clock_off_s=world.chance.uniform(-day_s, -60.0))
    # Items that outlast their leases, one for each, and one whose lease has been renewed when its worker dies: whoever
    # went by another clock would take them away, or never.
    job = world.submit(scripted(calibrate={"items": 2, "pause_s": 3.0}, profile={"die": {"at": "end"}}))
    world.wait_for_jobs()
    taken = [item.key for item in world.store.items.of_stage(job, "calibrate") if item.lost_leases]
    assert not taken, f"taken away from workers that lived: {taken}"


@fault("poison")
def poison(world: World) -> Ends:
    """An item kills every process that tries it: given up with its last words, others go on"""
    world.with_settings(max_attempts=2)
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
    world.with_settings(max_attempts=2, lease_s=1.2)
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
