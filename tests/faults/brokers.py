"""Faults of the broker: gone, back without its memory, and messages that are doubled, late, stale or false."""

from __future__ import annotations

import shutil

from ulid import ULID

from allocator.jobs.machine.celery_app import make_celery, publish
from allocator.stages.pipeline import CPU_QUEUE
from tests.faults.registry import fault
from tests.faults.world import World, scripted


@fault("broker-lost")
def broker_lost(world: World) -> None:
    """The broker goes, and comes back empty (Redis killed; the embedded broker's folder removed), several times"""
    world.with_settings(lease_s=1.2)
    world.dispatcher()
    world.worker()
    job = world.submit()
    world.wait(lambda: world.begun("prepare"), "work begins")
    for _ in range(2):
        world.pause(0.5)
        if world.redis is None:
            shutil.rmtree(world.settings.queue_dir / "messages", ignore_errors=True)
            continue
        # A worker that is busy meanwhile notices only when it has finished.
        world.wait(lambda: world.over() or world.in_hand(), "an item is under way")
        world.redis.kill()
        try:
            world.pause(1.5)
        finally:
            world.redis.start()
    world.submit()
    world.wait_for_jobs()
    lost = sum(item.lost_leases for item in world.store.items.of_stage(job, "profile"))
    assert lost == 0, "an item was taken from its worker because the broker went away"


@fault("broker-flushed")
def broker_flushed(world: World) -> None:
    """All messages vanish under everybody's feet (FLUSHALL; files deleted)"""
    world.dispatcher()
    world.worker()
    world.submit()
    for _ in range(4):
        world.pause(0.8)
        if world.redis is not None:
            world.redis.flush()
        else:
            for path in (world.settings.queue_dir / "messages").glob("*"):
                path.unlink(missing_ok=True)
    world.submit()
    world.wait_for_jobs()


@fault("messages-wrong")
def messages_wrong(world: World) -> None:
    """Messages doubled, late, reordered, stale, of the future, and of items that never were"""
    world.dispatcher()
    for _ in range(2):
        world.worker()
    jobs = [world.submit(), world.submit(scripted(profile={"die": {"at": "unit"}}))]
    app = make_celery(world.settings)
    for _ in range(8):
        items = [
            item
            for job in jobs
            for stage in {"prepare", world.store.jobs.by_id(job).stage or "prepare"}
            for item in world.store.items.of_stage(job, stage)
        ]
        messages = [(item.id, item.attempt + world.chance.choice((-1, 0, 0, 1))) for item in items]
        messages = 2 * messages + [(str(ULID()), 0)]
        world.chance.shuffle(messages)
        for item_id, attempt in messages[:6]:
            publish(app, item_id, attempt, CPU_QUEUE)
        world.pause(0.5)
    app.close()
    world.wait_for_jobs()
