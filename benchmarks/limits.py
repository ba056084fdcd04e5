"""Limits held: what lists, plans, claims and the dispatcher's questions take on a full database against an almost empty one.

``python -m benchmarks.limits`` prints the table; ``benchmarks.run limits`` fills docs/benchmarks/results.md. Full: 200 queued
jobs of 4,200, 10,000 profiles of one model, 1,000 models, 10,000 units, 4,000 plans. Both databases are asked in turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from allocator.base.settings import Settings
from allocator.jobs.document import job_documents
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from tests.support import servers
from tests.support.population import LABEL, LIMIT, METRIC, Size, hexadecimal, item_id, populate
from tests.support.profiles import measured_profile

FULL = Size()
SMALL = Size(
    queued_jobs=60, ended_jobs=60, models=60, profiles_of_one_model=60, other_profiles=0, units=300, plans=240
)
WORKERS = 8
TURNS = 41
PLANNED = measured_profile()

Row = dict[str, Any]
QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "page of 50 jobs": lambda store: job_documents(store, store.jobs.find("default").items),
    "page of queued jobs": lambda store: store.jobs.find("default", state="queued"),
    "page of profiles of the busiest model": lambda store: store.profiles.find("default", model="local:m0"),
    "page of plans": lambda store: store.plans.find("default"),
    "plans by label": lambda store: store.plans.find("default", label=LABEL),
    "plans within a limit": lambda store: store.plans.find(
        "default", metric=METRIC, limits=(LIMIT, LIMIT + 40)
    ),
    "profile by key": lambda store: store.profiles.document("default", hexadecimal(7)),
    "300 units by key": lambda store: store.units.get_many("default", [hexadecimal(n) for n in range(300)]),
    "model by reference": lambda store: store.models.find_by_reference("default", "local:m4"),
    "plan: read the profile, solve, store": lambda store: _plan(store),
    "60 due messages": lambda store: store.wakeups.due(limit=60),
    "lost leases": lambda store: store.items.orphans(),
    "waiting jobs": lambda store: store.jobs.ids_with_queue_reason(),
    "counts for metrics": lambda store: (store.jobs.count_by_state(), store.items.count_by_state()),
}
CLAIMS = f"claim, {WORKERS} processes that want the same items"
CLAIM = """
import sys, time
from allocator.base.settings import Settings
from allocator.store import Store
store = Store.open(Settings())
store.items.get("none")
print("ready", flush=True)
sys.stdin.readline()
found, begun = 0, time.perf_counter()
for item_id in sys.argv[1:]:
    found += store.items.claim(item_id, "me", 60.0, attempt=0, inline=False, max_lost_leases=3) is not None
print(found, time.perf_counter() - begun)
"""


def _plan(store: Store) -> None:
    profile = store.profiles.get("default", PLANNED.key)
    plan = plan_from_profile(profile, ["block_params=0.8"])
    store.plans.put("default", plan, created_by="limits")


def _round_trip(store: Store) -> None:
    with store.database.read() as connection:
        connection.execute(text("SELECT 1"))


@contextmanager
def filled(settings: Settings, size: Size) -> Iterator[Store]:
    """A store with that many rows and one profile to plan from."""
    Store.upgrade(settings)
    store = Store.open(settings)
    store.profiles.put("default", PLANNED)
    populate(store, size)
    yield store
    store.close()


def in_turns(call: Callable[[Store], Any], stores: list[Store]) -> list[float]:
    """Median seconds of an empty transaction and of the call in each store; the first turn is not counted."""
    calls = [(_round_trip, stores[0]), *((call, store) for store in stores)]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(TURNS + 1):
        for (ask, store), seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            ask(store)
            seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds[1:]) for seconds in times]


def claims(settings: Settings, size: Size, workers: int) -> float:
    """Seconds per attempt to claim, where every one of ``workers`` processes wants every queued item."""
    ids = [item_id(size.ended_jobs + n, 0) for n in range(size.queued_jobs)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, **settings.environment()}
    started = [
        subprocess.Popen([sys.executable, "-c", CLAIM, *ids], env=environment, **pipes)
        for _ in range(workers)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].split() for process in started]
    total = sum(int(count) for count, _ in outputs)
    assert total == size.queued_jobs, f"{total} claims of {size.queued_jobs} items"
    return max(float(seconds) for _, seconds in outputs) / (workers * size.queued_jobs)


def measured(name: str, homes: list[Settings], sizes: tuple[Size, Size], workers: int) -> list[Row]:
    """Every question in both databases, in turns, and then the claims."""
    with ExitStack() as stack:
        stores = [
            stack.enter_context(filled(settings, size)) for settings, size in zip(homes, sizes, strict=True)
        ]
        times = {question: in_turns(ask, stores) for question, ask in QUESTIONS.items()}
        trip = statistics.median(trip for trip, *_ in times.values())
        claim_times = [claims(settings, size, workers) for settings, size in zip(homes, sizes, strict=True)]
        times[CLAIMS] = [trip, *claim_times]
    return [
        {"database": name, "question": question, "small_s": small, "full_s": full, "trip_s": trip}
        for question, (trip, small, full) in times.items()
    ]


def run(small: Size = SMALL, full: Size = FULL, workers: int = WORKERS) -> list[Row]:
    """Rows {database, question, small_s, full_s, trip_s (an empty transaction)}; a minute or two."""
    with tempfile.TemporaryDirectory(prefix="ra-limits-") as folder, servers.postgres() as server:
        homes = [Settings(home=Path(folder) / name) for name in ("small", "full")]
        rows = measured("SQLite", homes, (small, full), workers)
        with servers.fresh_database(server) as first_url, servers.fresh_database(server) as second_url:
            servers_homes = [
                home.model_copy(update={"database_url": url})
                for home, url in zip(homes, (first_url, second_url), strict=True)
            ]
            return rows + measured("PostgreSQL", servers_homes, (small, full), workers)


def table(rows: list[Row]) -> str:
    """Full over almost empty, and the almost empty one in empty transactions, which say what a machine can do."""
    databases = list(dict.fromkeys(row["database"] for row in rows))
    heads = [f"{database}, almost empty | full / almost empty" for database in databases]
    lines = [f"| question | {' | '.join(heads)} |", "|---" * (1 + 2 * len(databases)) + "|"]
    for question in dict.fromkeys(row["question"] for row in rows):
        cells = []
        for row in (row for row in rows if row["question"] == question):
            cells.append(f"{row['small_s'] / row['trip_s']:.1f} | {row['full_s'] / row['small_s']:.1f}")
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(run()) + "\n")
