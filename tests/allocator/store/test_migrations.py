"""One history for both databases, complete, safe to walk twice at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, select, text
from ulid import ULID

from allocator.base.errors import SchemaMismatch
from allocator.base.settings import Settings
from allocator.store import Store, migrate
from allocator.store.database import Database
from allocator.store.tables import metadata, units
from tests.support.processes import start

IMPORTS = "from allocator.base.settings import Settings; from allocator.store import Store"


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


def _walk(database: Database, walk: Callable[..., None], target: str) -> None:
    with database.write() as connection:
        config = migrate.config()
        config.attributes["connection"] = connection
        walk(config, target)


def test_teams_come_to_a_store_that_has_been_used_and_go_again(bare_settings: Settings) -> None:
    database = Database(bare_settings.sqlalchemy_url)
    _walk(database, command.upgrade, "0001")
    with database.write() as connection:
        for team in ("default", "red", "red"):
            connection.execute(units.insert().values(team=team, key=str(ULID()), payload={"loss": 0.1}))
        before = connection.execute(select(units).order_by(units.c.id)).all()
    _walk(database, command.upgrade, "0002")
    store = Store(database)
    assert [team.name for team in store.teams.all()] == ["default", "red"]
    assert all(team.created_at.tzinfo is not None for team in store.teams.all())
    store.teams.put_member("red", "ada", "admin", actor="op")
    store.tokens.create("red", "ada", scope="admin", lifetime_s=60, created_by="op")
    _walk(database, command.downgrade, "0001")
    with database.read() as connection:
        assert connection.execute(select(units).order_by(units.c.id)).all() == before
        assert not {"teams", "tokens", "audit"} & set(inspect(connection).get_table_names())
    _walk(database, command.upgrade, "head")
    assert [team.name for team in store.teams.all()] == ["default", "red"]
    assert not store.tokens.any()
    database.close()
