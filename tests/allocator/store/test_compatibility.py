"""Code and a database that is ahead of it: what only adds is worked with, what takes away is refused, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from allocator.base.errors import SchemaMismatch
from allocator.base.settings import Settings
from allocator.jobs.host.doctor import examine
from allocator.jobs.machine.executor import Executor
from allocator.store import Store, migrate
from allocator.store.database import Database
from tests.support import next_version
from tests.support.jobs import new_job, run_to_end
from tests.support.schema import breaks, shape

WITHOUT_A_WORD = {"0001", "0002", "0003", "0005", "0006", "0007"}
"""Revisions of before databases said which code works with them."""


def _scripts(folder: Path) -> ScriptDirectory:
    return ScriptDirectory(str(folder))


@pytest.fixture
def ahead(
    bare_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """Settings of a database that another version has upgraded beyond this one."""

    def upgraded(*writers: Callable[[Path], None]) -> Settings:
        folder = next_version.migrations(tmp_path)
        for write in writers:
            write(folder / "versions")
        with monkeypatch.context() as other:
            other.setattr(migrate, "migrations_folder", lambda: folder)
            Store.upgrade(bare_settings)
            Store.open(bare_settings).close()
        return bare_settings

    return upgraded


def test_what_only_adds_is_worked_with(ahead: Callable[..., Settings], scripted: None) -> None:
    settings = ahead(next_version.write_expanding)
    assert Store.upgrade(settings) == next_version.EXPAND, "left as it is"
    store = Store.open(settings)
    job = new_job(store, settings, "profile", {"model": "m"})
    assert run_to_end(store, Executor(store, settings), job) == "succeeded"
    store.close()
    (database,) = [found for found in examine(settings) if found.check == "database"]
    assert (database.state, next_version.EXPAND in database.found) == ("note", True)


def test_it_is_said_so(ahead: Callable[..., Settings], caplog: pytest.LogCaptureFixture) -> None:
    Store.open(ahead(next_version.write_expanding)).close()
    assert f"revision {next_version.EXPAND}, which only adds" in caplog.text


def test_what_takes_away_is_refused_with_what_to_do(ahead: Callable[..., Settings]) -> None:
    settings = ahead(next_version.write_expanding, next_version.write_contracting)
    for begin in (Store.open, Store.upgrade):
        with pytest.raises(SchemaMismatch, match=r"made for 9002 or later.*pip install --upgrade rankalloc"):
            begin(settings)
    (database,) = [found for found in examine(settings) if found.check == "database"]
    assert (database.state, database.advice) == ("wrong", "pip install --upgrade rankalloc")


def test_what_adds_after_something_was_taken_away_is_refused(
    bare_settings: Settings, ahead: Callable[..., Settings]
) -> None:
    def write_another(versions: Path) -> None:
        text = (versions / "9001_next.py").read_text()
        for old, new in (("9001", "9003"), (f'"{migrate.head()}"', '"9002"'), ("next_", "later_")):
            text = text.replace(old, new)
        (versions / "9003_next.py").write_text(text)

    ahead(next_version.write_expanding, next_version.write_contracting, write_another)
    with pytest.raises(SchemaMismatch, match=r"at revision 9003.*made for 9002"):
        Store.open(bare_settings)


@pytest.fixture
def stepwise(bare_settings: Settings) -> Callable[..., dict[str, list[str]]]:
    """Walks a history; by revision behind ``since``, what code of the revision before would stumble over."""

    def walk(folder: Path, since: str) -> dict[str, list[str]]:
        database, found = Database(bare_settings.sqlalchemy_url), {}
        config = migrate.config()
        config.set_main_option("script_location", str(folder))
        with database.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, since)
        steps = [script.revision for script in _scripts(folder).iterate_revisions("head", since)]
        for revision in reversed(steps):
            with database.write() as connection:
                before = shape(connection)
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
            with database.read() as connection:
                found[revision] = breaks(before, shape(connection))
        database.close()
        return found

    return walk


def test_a_revision_that_says_it_only_adds_does(
    stepwise: Callable[..., dict[str, list[str]]], tmp_path: Path
) -> None:
    folder = next_version.migrations(tmp_path)
    next_version.write_expanding(folder / "versions")
    next_version.write_contracting(folder / "versions")
    found = stepwise(folder, since="0007")
    for script in _scripts(folder).walk_revisions():
        if script.revision not in WITHOUT_A_WORD:
            assert isinstance(script.module.additive, bool)
            if script.module.additive:
                assert found[script.revision] == [], script.revision
    assert "plan_comments.text" in " ".join(found[next_version.CONTRACT])


HARM = {
    "a column that must be filled": 'op.add_column("next_things", sa.Column("x", sa.Integer(), nullable=False))',
    "a name that is new": 'op.alter_column("jobs", "next_note", new_column_name="note")',
    "a rule": 'op.create_index("uq", "jobs", ["next_note"], unique=True)',
}


@pytest.mark.parametrize("harm", HARM)
def test_a_revision_that_says_so_wrongly_is_found(
    stepwise: Callable[..., dict[str, list[str]]], tmp_path: Path, harm: str
) -> None:
    folder = next_version.migrations(tmp_path)
    next_version.write_expanding(folder / "versions")
    text: Any = (folder / "versions" / "9001_next.py").read_text()
    text = text.replace("9001", "9004").replace(f'"{migrate.head()}"', '"9001"')
    body = text.index("    op.create_table"), text.index("\n\ndef downgrade")
    (folder / "versions" / "9004_next.py").write_text(f"{text[: body[0]]}    {HARM[harm]}\n{text[body[1] :]}")
    assert stepwise(folder, since=next_version.EXPAND)["9004"]
