"""Databases as released revisions wrote them open, are upgraded, and what was under way goes on (`tests.assets.freeze`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, inspect, select, table

from allocator.base.errors import SchemaMismatch
from allocator.base.settings import Settings
from allocator.jobs.document import job_document
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile
from allocator.store import Store, migrate
from allocator.store.database import Database
from tests.assets.freeze import FOLDER, PLAN, SECRET
from tests.support.command import run
from tests.support.jobs import items, run_to_end
from tests.support.latency import table as latency_table
from tests.support.processes import wait_until

REVISIONS = sorted(file.stem.removeprefix("revision-") for file in FOLDER.glob("revision-*.db"))
FROZEN = [(revision, kind) for revision in REVISIONS for kind in ("sqlite", "postgresql")]
WITH_TEAMS = [found for found in FROZEN if found[0] >= "0007"]


@pytest.fixture(params=FROZEN)
def frozen(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a database that holds what was frozen, not yet upgraded."""
    revision, kind = request.param
    if kind == "sqlite":
        shutil.copy(FOLDER / f"revision-{revision}.db", settings.home / "rankalloc.db")
        yield settings
        return
    from tests.support import servers

    with servers.fresh_database(request.getfixturevalue("postgres_server")) as url:
        database = Database(url)
        with database.write() as connection:
            raw = connection.connection.cursor()
            raw.execute((FOLDER / f"revision-{revision}.sql").read_text())
        database.close()
        yield settings.model_copy(update={"database_url": url})


def _rows(settings: Settings) -> dict[str, int]:
    database = Database(settings.sqlalchemy_url)
    with database.read() as connection:
        names = inspect(connection).get_table_names()
        found = {
            name: connection.execute(select(func.count()).select_from(table(name))).scalar_one()
            for name in names
        }
    database.close()
    return found


def test_they_have_rows_in_every_table(frozen: Settings) -> None:
    assert {"0001", "0007"} <= set(REVISIONS)
    assert all(_rows(frozen).values()), _rows(frozen)


def test_it_is_refused_with_the_command_until_it_is_upgraded_and_keeps_all_rows(frozen: Settings) -> None:
    before = _rows(frozen)
    before.pop("outbox", None)  # since revision 0009 items say themselves when they are to be announced
    database = Database(frozen.sqlalchemy_url)
    if migrate.current(database) != migrate.head():
        with pytest.raises(SchemaMismatch, match="rankalloc db upgrade"):
            Store.open(frozen)
    database.close()
    assert Store.upgrade(frozen) == migrate.head()
    after = _rows(frozen)
    assert {name: after[name] for name in before} == before
    Store.open(frozen).close()


def test_jobs_are_listed_and_those_under_way_come_to_their_end(frozen: Settings, scripted: None) -> None:
    Store.upgrade(frozen)
    store = Store.open(frozen)
    queued, under_way, finished = store.jobs.find("default").items
    assert [job.state for job in (queued, under_way, finished)] == ["queued", "running", "succeeded"]
    assert job_document(store, finished).request["text"] == "größer ✓"
    assert store.events.list("default", finished.id)[-1].type == "job.succeeded"
    assert [row["size"] for row in store.artifacts.list("default", finished.id)] == [2**40]
    done = store.items.results(under_way.id)["prepare"]
    announced = {message.item_id for message in store.wakeups.due()}
    waiting = [item for job in (queued, under_way) for item in items(store, job.id)]
    assert {item.id for item in waiting if item.state == "queued"} == announced
    executor = Executor(store, frozen)
    wait_until(store.items.orphans, "its worker is missed")
    reconcile(store, frozen)
    for job in (queued, under_way):
        assert run_to_end(store, executor, job.id) == "succeeded"
    assert store.items.results(under_way.id)["prepare"][: len(done)] == done, "what was done is kept"
    store.close()


def test_its_profile_answers_and_plans(
    frozen: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.upgrade(frozen)
    if not frozen.embedded_database:
        monkeypatch.setenv("RANKALLOC_DATABASE_URL", frozen.database_url)

    def ask(*arguments: str) -> dict[str, object]:
        status, out, error = run(capsys, monkeypatch, frozen.home, *arguments, "--json")
        assert status == 0, error
        return dict(json.loads(out))

    (profile,) = ask("profiles", "list")["items"]  # type: ignore[misc]
    assert ask("profiles", "sensitive", profile["key"])
    assert ask("plan", profile["key"], "--budget", "block_params=0.8")["digest"]
    # A plan of which early code stored only what a store looks at: it is handed on as it is.
    assert ask("plans", "show", PLAN)["measured"] is None
    assert ask("plans", "lineage", PLAN)["profile"]["key"] == profile["key"]  # type: ignore[index]
    store = Store.open(frozen)
    assert store.plans.document("default", PLAN)["budgets"][0]["limit"] == 2**53 - 1
    assert store.plans.measurements("default", PLAN)[0]["measured"] == {"loss_nats": 1e-17}
    assert store.units.get_many("default", ["unit-1"])["unit-1"] == {
        "loss_nats": 3.3333333333333335,
        "text": "größer ✓",
    }
    store.close()


@pytest.mark.parametrize("frozen", WITH_TEAMS, indirect=True)
def test_names_notes_tokens_and_shares_still_hold(frozen: Settings) -> None:
    Store.upgrade(frozen)
    store = Store.open(frozen)
    assert store.plans.resolve("default", "alias:prod") == PLAN
    assert [row["digest"] for row in store.plans.find("default", label="good", metric="params").items] == [
        PLAN
    ]
    assert [row["text"] for row in store.notes.comments("default", PLAN).items] == ["größer ✓"]
    known = latency_table()
    assert store.latency_tables.get("default", known.digest) == known
    assert store.latency_tables.document("default", known.digest) == known.document
    holder = store.tokens.holder(SECRET)
    assert holder is not None
    assert (holder.team, holder.name, holder.scope) == ("default", "ada", "submit")
    (shared,) = store.profiles.find("red").items
    assert shared["shared_by"] == "default"
    assert {"shared", "created", "made"} <= {entry.action for entry in store.audit.find("default").items}
    store.close()
