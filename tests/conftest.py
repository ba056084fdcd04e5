"""Fixtures: settings in a temporary home, stores on SQLite and on a real PostgreSQL, a real Redis.

``TEST_DATABASE_URL`` (a server on which databases may be created) and ``TEST_REDIS_URL`` replace the servers
that the tests start themselves; with ``-n 0``, since processes that share the tests would share the Redis. A server
that cannot be started fails the tests that need it; none is skipped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from allocator.base.settings import Settings
from allocator.store import Store
from tests.support import servers, stages

_FIRST = (
    "tests/e2e",
    "tests/faults",
    "tests/hostile",
    "tests/benchmarks",
    "tests/composition",
    "tests/solvers",
)
"""What is begun first where processes share the tests, so that they end at about the same time."""
_DEMO = ("test_checkpoints.py", "test_compress.py", "test_demo.py", "test_kill.py")
"""Files of tests/e2e that look at the one run of the demo."""


class _ByFile(LoadScopeScheduling):
    """A file's tests stay together, and so do all that look at the demo: what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "demo" if file.rpartition("/")[2] in _DEMO else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """For ``-n 2``, as ``make test`` has it."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name a case by its place: what a compressor writes may hold the time, and processes must agree on names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        demo = item.path.name in _DEMO
        rooms = [item.nodeid.startswith(f"{room}/") for room in _FIRST]
        return not demo, rooms.index(True) if any(rooms) else len(rooms)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person at the keyboard has set must not reach the tests, but for how many cores to use."""
    for name in [
        name for name in os.environ if name.startswith("RANKALLOC_") and name != "RANKALLOC_THREADS"
    ]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    with servers.redis() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Embedded defaults in a temporary home, with short waits."""
    result = Settings(
        home=tmp_path / "home",
        model_roots=[tmp_path / "models"],
        lease_s=1.5,
        retry_backoff_s=0.01,
        dispatch_interval_s=0.05,
        reconcile_interval_s=0.2,
    )
    result.prepare_home()
    return result


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    """A database that all tests share, each of which finds its tables empty."""
    with servers.fresh_database(postgres_server) as url:
        Store.upgrade(Settings(database_url=url))
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty store, which tests copy: to walk through all migrations takes longer than most of them."""
    settings = Settings(home=tmp_path_factory.mktemp("migrated"))
    Store.upgrade(settings)
    return settings.home / "rankalloc.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_settings(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Settings]:
    """`settings` on either database, which has no schema yet."""
    if request.param == "sqlite":
        yield settings
        return
    with servers.fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield settings.model_copy(update={"database_url": url})


@pytest.fixture(params=["sqlite", "postgresql"])
def any_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """`settings` on either database, migrated and empty."""
    if request.param == "postgresql":
        url = request.getfixturevalue("migrated_postgres")
        servers.empty_tables(url)
        return settings.model_copy(update={"database_url": url})
    shutil.copy(request.getfixturevalue("migrated_sqlite"), settings.home)
    return settings


@pytest.fixture
def store(settings: Settings, migrated_sqlite: Path) -> Iterator[Store]:
    """An empty store on SQLite."""
    shutil.copy(migrated_sqlite, settings.home)
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def any_store(any_settings: Settings) -> Iterator[Store]:
    """An empty store on either database."""
    opened = Store.open(any_settings)
    yield opened
    opened.close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted stages in this process (`tests.support.stages`)."""
    for name, module in stages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def tiny_model(settings: Settings) -> str:
    """The reference of a local model folder that has a configuration and texts, and nothing else."""
    folder = settings.model_roots[0] / "tiny"
    folder.mkdir(parents=True)
    contents: dict[str, Any] = {
        "config.json": "{}",
        "calibration.txt": "some text",
        "evaluation.txt": "more text",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    return "local:tiny"
