"""Faults of the database: restarted in the middle, locked by somebody else for longer than a lease."""

from __future__ import annotations

import subprocess

from tests.faults.registry import fault
from tests.faults.world import World

LOCK = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@fault("database-restarted", database="postgresql")
def database_restarted(world: World) -> None:
    """PostgreSQL is cut off and started again under running workers"""
    assert world.postgres is not None
    world.dispatcher()
    world.worker()
    world.submit()
    world.wait(lambda: world.begun("prepare"), "work begins")
    world.pause(1.5)
    world.postgres.stop()
    world.pause(2 * world.settings.lease_s)
    world.postgres.start()
    world.wait_for_jobs()


@fault("database-locked", database="sqlite")
def database_locked(world: World) -> None:
    """Another process holds SQLite's only write lock for longer than a lease"""
    world.dispatcher()
    world.worker()
    world.submit()
    world.wait(lambda: world.begun("prepare"), "work begins")
    world.pause(1.5)
    file = str(world.settings.home / "rankalloc.db")
    holder = world.python("-c", LOCK, file, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    world.pause(3 * world.settings.lease_s)
    holder.stdin.close()
    world.wait_for_jobs()
