"""SQLite under several processes, and outages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.store import Store
from allocator.store.database import Database, connection_problem
from tests.support.jobs import new_job
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
    settings = settings.model_copy(
        update={"lease_s": 600.0}
    )  # a machine under load must not let one end meanwhile
    request = {"model": "local:m", "script": {"prepare": {"items": 120}}}
    job = new_job(store, settings, "profile", request)
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"username": "nobody-here"}, "The database refuses the user, or the password,"),
        ({"database": "nothing-here"}, "The database has no such database as RANKALLOC_DATABASE_URL names"),
        ({"host": "127.0.0.1", "port": 9, "query": {}}, "nothing listens at the host and port"),
        ({"host": "no-such-host.invalid", "query": {}}, "the host of RANKALLOC_DATABASE_URL has no address"),
    ],
)
def test_why_there_is_no_connection_is_told_apart(
    migrated_postgres: str, changed: dict[str, Any], said: str
) -> None:
    url = make_url(migrated_postgres).set(**changed).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable) as caught:
        Store.open(Settings(database_url=url))
    assert said in caught.value.detail
    for hidden in ("nobody-here", "nothing-here", "127.0.0.1", "no-such-host"):
        assert hidden not in caught.value.detail


def test_a_wrong_password_is_not_a_closed_port() -> None:
    """As libpq says it; the servers of the tests ask for no password."""
    said = 'connection failed: FATAL:  password authentication failed for user "me"'
    error = OperationalError(None, None, psycopg.OperationalError(said))
    assert (
        connection_problem(error)
        == "The database refuses the user, or the password, of RANKALLOC_DATABASE_URL."
    )


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
