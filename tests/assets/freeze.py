"""Freezes a database of the present revision, with rows in every table: ``python -m tests.assets.freeze``.

Run once for every revision that is released, and never again for the same: what it writes, an SQLite file and an SQL dump
from PostgreSQL, is what later versions have to open (``tests/allocator/store/test_frozen.py``).
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import sys
import tempfile
from pathlib import Path

from sqlalchemy import func, make_url, select

from allocator.base.settings import Settings
from allocator.jobs.machine.executor import Executor
from allocator.store import Store, migrate
from allocator.store.tables import metadata
from allocator.store.team_tables import tokens
from tests.support import servers, stages
from tests.support.jobs import items, new_job, run_to_end
from tests.support.latency import table
from tests.support.plans import plan_named
from tests.support.profiles import measured_profile

FOLDER = Path(__file__).resolve().parent
PLAN, SECRET = "d" * 64, "ra_of-a-frozen-database"
_PAGE_BYTES = 1024
"""SQLite's smallest pages but one: dozens of tables and indexes hold a few rows each."""


def fill(store: Store, settings: Settings) -> None:
    """A finished job, one under way whose worker is gone, one that nobody has begun; a model, its profile, a plan."""
    profile = measured_profile()
    key, weights = profile.key, profile.model.weights_sha256
    store.models.put(
        "default", weights, "local:small", {"reference": "local:small", "weights_sha256": weights}
    )
    store.units.put("default", "unit-1", {"loss_nats": 3.3333333333333335, "text": "größer ✓"})
    store.profiles.put("default", profile)
    plan = plan_named(PLAN, profile_key=key, limits={"params": 2**53 - 1})
    store.plans.put("default", plan, created_by="me")
    store.plans.add_measurement("default", PLAN, "0" * 26, {"loss_nats": 1e-17})
    _write_beside(store, key)
    # The work of executors that nobody else takes part in.
    patient = settings.model_copy(update={"lease_s": 0.2})
    executor = Executor(store, patient)
    finished, under_way, _queued = (
        new_job(
            store,
            settings,
            "profile",
            {"model": "local:small", "script": {"prepare": {"items": 2}}, "text": "größer ✓"},
            idempotency_key=f"key-{n}",
        )
        for n in range(3)
    )
    run_to_end(store, executor, finished)
    store.jobs.link(finished, profile_key=key, weights_sha256=weights)
    store.artifacts.add(
        "default", finished, "compact/weights.bin", 2**40, "b" * 64, f"{finished}/compact/weights.bin"
    )
    executor.execute(items(store, under_way)[0].id)
    executor.claim(items(store, under_way)[1].id)
    with store.database.read() as connection:
        empty = [
            each.name
            for each in metadata.sorted_tables
            if not connection.execute(select(func.count()).select_from(each)).scalar_one()
        ]
    assert not empty, f"no rows in {empty}: fill them"


def _write_beside(store: Store, profile_key: str) -> None:
    """Names, notes, a latency table; a second team, a member with a token whose secret is `SECRET`, a share."""
    store.aliases.set("default", "prod", PLAN, by="me", expected="absent")
    store.notes.add_label("default", PLAN, "good", by="me")
    store.notes.add_comment("default", PLAN, "größer ✓", by="me")
    store.latency_tables.put("default", table(), created_by="me")
    store.teams.create("red", actor="me")
    store.teams.put_member("default", "ada", "submit", actor="me")
    made = store.tokens.create("default", "ada", scope="submit", lifetime_s=None, created_by="me").token
    with store.transaction() as connection:
        connection.execute(
            tokens.update()
            .where(tokens.c.id == made.id)
            .values(sha256=hashlib.sha256(SECRET.encode()).hexdigest())
        )
    store.shares.add("default", "profile", profile_key, with_team="red", by="me")


def main() -> int:
    file, dump = (FOLDER / f"revision-{migrate.head()}.{kind}" for kind in ("db", "sql"))
    if file.exists():
        print(f"{file.name} is there already: what has been released does not change")
        return 1
    stages.install()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        store = Store.open(settings, create=True)
        fill(store, settings)
        store.close()
        with sqlite3.connect(settings.home / "rankalloc.db") as connection:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("VACUUM INTO ?", (str(file),))
        connection.close()
        _dump(Settings(home=Path(folder) / "other"), dump)
    print(f"wrote {file.name} and {dump.name}")
    return 0


def _dump(settings: Settings, dump: Path) -> None:
    server = servers.Postgres()
    try:
        with servers.fresh_database(server.url) as url:
            settings = settings.model_copy(update={"database_url": url})
            settings.prepare_home()
            Store.upgrade(settings)
            store = Store.open(settings)
            fill(store, settings)
            store.close()
            plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            written = server.run("pg_dump", "--inserts", "--no-owner", "--no-privileges", plain)
        # psql's own commands, settings of newer servers, and the search path that would outlive the script.
        unwanted = re.compile(r"^(\\|--|$|SET |SELECT pg_catalog\.set_config)")
        dump.write_text(
            "".join(line for line in written.splitlines(keepends=True) if not unwanted.match(line))
        )
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
