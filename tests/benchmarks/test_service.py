"""The load that the service's figures come from: every request answered, every kind of it made."""

from __future__ import annotations

import asyncio
import random

from benchmarks import service
from benchmarks.service import Load, load, question, table


def test_the_whole_benchmark_runs_without_an_error() -> None:
    rows = service.run(clients=4, seconds=3, plans=2)
    assert [row["errors"] for row in rows] == [0, 0, 0, 0]
    assert all(row["requests"] > 0 and 0 < row["median_s"] <= row["p95_s"] for row in rows)
    assert table(rows).count("\n") == len(rows) + 1


def test_errors_are_kept_and_their_time_too() -> None:
    """A server that refuses must not look fast by leaving the table."""
    refusing = {"read": lambda client, _: client.get("http://127.0.0.1:9/")}
    found = asyncio.run(load("http://127.0.0.1:9", refusing, clients=2, seconds=0.2, think_s=0.01))
    assert isinstance(found, Load)
    assert len(found.errors) == len(found.seconds["read"]) > 0


def test_no_question_is_asked_twice() -> None:
    generator = random.Random(3)
    asked = [tuple(question("key", generator)["budgets"]) for _ in range(200)]
    assert len(set(asked)) == len(asked)
