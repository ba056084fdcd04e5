"""SQLite under several processes, and outages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.store import Store
from allocator.store.database import Database
from tests.support.processes import start

CLAIM = """
import sys
from allocator.jobs.machine.executor import Executor
from allocator.base.settings import Settings
from allocator.store import Store
settings = Settings()
store = Store.open(settings)
executor = Executor(store, settings)
ids = sys.stdin.read().split()
print(*[item_id for item_id in ids if executor.claim(item_id) is not None])
"""


def test_processes_claiming_at_once_share_the_items_without_locking_errors(
    settings: Settings, store: Store, scripted: None
) -> None:
    from allocator.jobs.submit import submit

    settings = settings.model_copy(
        update={"lease_s": 600.0}
    )  # a machine under load must not let one end meanwhile
    request = {"model": "local:m", "script": {"prepare": {"items": 120}}}
    job = submit(store, settings, team="default", kind="profile", request=request, created_by="me")
    ids = [item.id for item in store.items.of_stage(job, "prepare")]
    pipes = {"stdin": -1, "stdout": -1}
    processes = [start(settings, "-c", CLAIM, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(" ".join(ids))
        process.stdin.close()
    claimed = []
    for process in processes:
        assert process.stdout is not None
        claimed += process.stdout.read().split()
        process.stdout.close()
        assert process.wait() == 0, (settings.logs_dir / "process.log").read_text()
    assert sorted(claimed) == sorted(ids), "an item was claimed twice or not at all"


def test_a_fork_makes_its_own_connections(settings: Settings, store: Store) -> None:
    store.units.put("default", "parent", {})
    parent = store.database.engine
    child = os.fork()
    if child == 0:
        own = store.database.engine is not parent
        store.units.put("default", "child", {})
        os._exit(0 if own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.database.engine is parent
    assert set(store.units.get_many("default", ["parent", "child"])) == {"parent", "child"}


def test_an_unreachable_database_is_said_to_be_unavailable(tmp_path: Path) -> None:
    sqlite = Database(f"sqlite:///{tmp_path}/absent/folder.db")
    with pytest.raises(StoreUnavailable), sqlite.read():
        pass
    postgres = Database("postgresql+psycopg://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(StoreUnavailable) as caught, postgres.read():
        pass
    assert "secret" not in caught.value.detail
    sqlite.close()
    postgres.close()


def test_writing_inside_a_read_is_a_bug_that_shows(store: Store) -> None:
    with pytest.raises(AssertionError), store.database.read():
        store.units.put("default", "k", {})
