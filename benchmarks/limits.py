"""Limits held: what lists, lookups and claims take on a full database against an almost empty one, on SQLite and PostgreSQL.

``python -m benchmarks.limits`` prints the table. Full: 200 queued jobs, 10,000 profiles of one model, 1,000 models, 10,000
units.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from allocator.jobs.document import job_documents
from allocator.settings import Settings
from allocator.store import Store
from benchmarks.population import Size, hexadecimal, item_id, populate

FULL = Size()
SMALL = Size(
    queued_jobs=60, ended_jobs=60, models=60, profiles_of_one_model=60, other_profiles=0, units=300, plans=60
)
WORKERS = 8
REPEATS = 15

QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "page of 50 jobs": lambda store: job_documents(store, store.jobs.find("default").items),
    "page of profiles of the busiest model": lambda store: store.profiles.find("default", model="local:m0"),
    "page of plans": lambda store: store.plans.find("default"),
    "profile by key": lambda store: store.profiles.get("default", hexadecimal(7)),
    "300 units by key": lambda store: store.units.get_many("default", [hexadecimal(n) for n in range(300)]),
    "model by reference": lambda store: store.models.find_by_reference("default", "local:m4"),
    "due messages": lambda store: store.outbox.due(),
    "lost leases": lambda store: store.items.orphans(),
    "waiting jobs": lambda store: store.jobs.ids_with_queue_reason(),
    "counts for metrics": lambda store: (store.jobs.count_by_state(), store.items.count_by_state()),
}
CLAIM = """
import sys, time
from allocator.settings import Settings
from allocator.store import Store
store = Store.open(Settings())
store.items.get("none")
print("ready", flush=True)
sys.stdin.readline()
found = 0
for item_id in sys.argv[1:]:
    found += store.items.claim(item_id, "me", 60.0, attempt=0, inline=False, max_lost_leases=3) is not None
print(found)
"""


def median_ms(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


@contextmanager
def filled(settings: Settings, size: Size) -> Iterator[Store]:
    Store.upgrade(settings)
    store = Store.open(settings)
    populate(store, size)
    yield store
    store.close()


def claims(settings: Settings, size: Size, workers: int) -> tuple[int, float]:
    """Items claimed and seconds, where every one of ``workers`` processes asks for every item."""
    ids = [item_id(size.ended_jobs + n, 0) for n in range(size.queued_jobs)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", CLAIM, *ids], env=_environment(settings), **pipes)
        for _ in range(workers)
    ]
    for process in started:
        process.stdout.readline()
    begun = time.perf_counter()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    found = sum(int(process.communicate()[0]) for process in started)
    return found, time.perf_counter() - begun


def _environment(settings: Settings) -> dict[str, str]:
    import os

    return {**os.environ, **settings.environment()}


def measured(name: str, make: Callable[[], Any]) -> list[tuple[str, str, float, float]]:
    """(database, question, milliseconds almost empty, full)."""
    results: dict[str, list[float]] = {
        question: [] for question in (*QUESTIONS, "claim, per item, 8 processes")
    }
    for size in (SMALL, FULL):
        with make() as settings, filled(settings, size) as store:
            for question, ask in QUESTIONS.items():
                results[question].append(median_ms(lambda ask=ask, store=store: ask(store)))  # type: ignore[misc]
            found, seconds = claims(settings, size, WORKERS)
            assert found == size.queued_jobs, "an item was claimed twice or not at all"
            results["claim, per item, 8 processes"].append(1000 * seconds / found)
    return [(name, question, small, full) for question, (small, full) in results.items()]


def main() -> None:
    from tests.support import servers

    @contextmanager
    def sqlite() -> Iterator[Settings]:
        with tempfile.TemporaryDirectory(prefix="ra-limits-") as folder:
            yield Settings(home=Path(folder) / "home")

    rows = measured("SQLite", sqlite)
    with servers.postgres() as server:

        @contextmanager
        def postgres() -> Iterator[Settings]:
            with tempfile.TemporaryDirectory() as folder, servers.fresh_database(server) as url:
                yield Settings(home=Path(folder) / "home", database_url=url)

        rows += measured("PostgreSQL", postgres)
    table = Table("database", "question", "almost empty, ms", "full, ms", "ratio")
    for name, question, small, full in rows:
        table.add_row(name, question, f"{small:.2f}", f"{full:.2f}", f"{full / small:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
