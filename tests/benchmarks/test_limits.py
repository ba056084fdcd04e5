"""The full database against the almost empty one: every question asked of both kinds, no item claimed twice."""

from __future__ import annotations

from benchmarks.limits import CLAIMS, QUESTIONS, run, table
from tests.support.population import Size

TINY = Size(
    queued_jobs=4, ended_jobs=8, models=8, profiles_of_one_model=8, other_profiles=0, units=8, plans=8
)


def test_every_question_is_asked_of_both_databases() -> None:
    rows = run(TINY, TINY, workers=2)
    asked = {(row["database"], row["question"]) for row in rows}
    assert asked == {(name, each) for name in ("SQLite", "PostgreSQL") for each in (*QUESTIONS, CLAIMS)}
    assert all(min(row["small_s"], row["full_s"], row["trip_s"]) > 0 for row in rows)
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(QUESTIONS) + 1
    assert {line.count("|") for line in lines} == {6}


def test_ratios_are_of_the_full_one_over_the_other() -> None:
    row = {"database": "SQLite", "question": "q", "small_s": 0.002, "full_s": 0.005, "trip_s": 0.001}
    assert table([row]).splitlines()[-1] == "| q | 2.0 | 2.5 |"
