"""One history for both databases, complete, safe to walk twice at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from allocator.errors import SchemaMismatch
from allocator.settings import Settings
from allocator.store import Store, migrate
from allocator.store.database import Database
from allocator.store.tables import metadata
from tests.support.processes import start

IMPORTS = "from allocator.settings import Settings; from allocator.store import Store"


def test_the_history_has_one_head() -> None:
    assert len(ScriptDirectory.from_config(migrate.config()).get_heads()) == 1


def test_the_history_makes_exactly_the_tables_of_the_code(bare_settings: Settings) -> None:
    Store.upgrade(bare_settings)
    database = Database(bare_settings.sqlalchemy_url)
    with database.write() as connection:
        config = migrate.config()
        config.attributes["connection"] = connection
        command.check(config)  # raises where autogenerate would find a difference
        assert set(metadata.tables) <= set(inspect(connection).get_table_names())
    database.close()


def test_the_history_can_be_walked_back_and_again(bare_settings: Settings) -> None:
    Store.upgrade(bare_settings)
    database = Database(bare_settings.sqlalchemy_url)
    for walk, target in ((command.downgrade, "base"), (command.upgrade, "head")):
        with database.write() as connection:
            config = migrate.config()
            config.attributes["connection"] = connection
            walk(config, target)
    migrate.check(database)
    database.close()


def test_an_empty_database_is_refused_with_the_command_that_mends_it(bare_settings: Settings) -> None:
    with pytest.raises(SchemaMismatch, match="rankalloc db upgrade"):
        Store.open(bare_settings)


def test_only_the_embedded_database_is_made_on_the_way(bare_settings: Settings) -> None:
    if bare_settings.embedded_database:
        Store.open(bare_settings, create=True).close()
    else:
        with pytest.raises(SchemaMismatch):
            Store.open(bare_settings, create=True)


def test_a_newer_database_is_refused(settings: Settings) -> None:
    Store.upgrade(settings)
    database = Database(settings.sqlalchemy_url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer"):
        migrate.check(database)
    database.close()


def test_upgrading_twice_keeps_what_is_stored(bare_settings: Settings) -> None:
    Store.upgrade(bare_settings)
    store = Store.open(bare_settings)
    store.units.put("default", "k", {"a": 1})
    Store.upgrade(bare_settings)
    assert store.units.get_many("default", ["k"]) == {"k": {"a": 1}}
    store.close()


def test_several_processes_may_upgrade_at_once(bare_settings: Settings) -> None:
    code = f"{IMPORTS}; Store.upgrade(Settings())"
    with ThreadPoolExecutor(3) as pool:
        processes = list(pool.map(lambda _: start(bare_settings, "-c", code), range(3)))
    assert [process.wait() for process in processes] == [0, 0, 0], (
        bare_settings.logs_dir / "process.log"
    ).read_text()
    Store.open(bare_settings).close()
