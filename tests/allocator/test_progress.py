"""Progress as it is told: how often, in which words, and how long a stage still takes. Every clock is the test's own."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from rich.console import Console

from allocator.jobs.document import JobDocument
from api.cli import console
from api.cli.lines import PlainLines
from api.cli.progress import Bars, job_progress
from api.web.pace import Pace, elapsed_text, left_text
from tests.allocator.conftest import Run
from tests.support.jobs import shown_event, shown_job


class Told:
    """Lines, each with the second at which it was written."""

    def __init__(self) -> None:
        self.now, self.lines = 1000.0, list[tuple[float, str]]()
        self.plain = PlainLines(lambda line: self.lines.append((self.now - 1000, line)), lambda: self.now)

    def at(self, second: float) -> PlainLines:
        self.now = 1000 + second
        return self.plain


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_line_as_people_read_it(told: Told) -> None:
    for layer in range(13):
        told.at(15.85 * layer).update("profile", layer, 30, "layers")
    assert told.lines[-1][1] == "profile: 12 of 30 layers (40 %), 3:10 elapsed, about 4:45 left"
    assert all(line.isascii() for _, line in told.lines)


def test_a_fast_stage_has_a_line_every_5_percent(told: Told) -> None:
    for percent in range(101):
        told.at(2 * percent).update("apply", percent, 100, "layers")
    told.plain.done()
    assert [second for second, _ in told.lines] == [*range(10, 200, 10), 200]
    assert told.lines[-1][1] == "apply: done, 3:20 elapsed"


def test_a_slow_stage_has_a_line_every_minute(told: Told) -> None:
    told.at(0).update("profile", 0, 1000, "passes")
    for second in range(1, 601):
        told.at(second).update("profile", second // 30, 1000, "passes")
    assert [second for second, _ in told.lines] == [*range(60, 601, 60)]


def test_a_job_that_tells_nothing_is_told_of_every_minute(told: Told) -> None:
    told.at(0).update("evaluate", 0, 3, "models")
    for second in range(1, 200):
        told.at(second).tick()
    assert told.lines == [
        (60 * n, f"evaluate: 0 of 3 models (0 %), {n}:00 elapsed") for n in (1, 2, 3)
    ]  # nothing is done yet: nothing is said of the rest


def test_lines_are_a_second_apart_and_what_flies_by_is_no_line(told: Told) -> None:
    for n in range(1001):
        told.at(n / 250).update("calibrate", n, 1000, "batches")
    assert [second for second, _ in told.lines] == [1, 2, 3]
    told.lines.clear()
    for n, stage in enumerate(("assemble", "allocate", "apply", "heal")):
        for done in (0, 1):
            told.at(4 + n / 10).update(stage, done, 1, "items")
    assert told.lines == [(4, "calibrate: done, 0:04 elapsed")]


def test_an_attempt_that_dies_is_not_counted_twice(told: Told) -> None:
    """The share falls back; 5 % are those of the present attempt."""
    for second, done in ((0, 0), (10, 50), (20, 10), (22, 12), (25, 15)):
        told.at(second).update("heal", done, 100, "steps")
    assert [second for second, _ in told.lines] == [10, 25]


def test_waiting_is_said_and_is_no_work(told: Told) -> None:
    reason = "Waiting for a free worker."
    for second in range(0, 301, 10):
        told.at(second).update("profile", 0, 10, "layers", waiting=reason)
    assert {line for _, line in told.lines} == {f"profile: 0 of 10 layers (0 %). {reason}"}
    assert len(told.lines) == 5
    told.at(300).update("profile", 0, 10, "layers")
    told.at(320).update("profile", 1, 10, "layers")
    assert told.lines[-1] == (320, "profile: 1 of 10 layers (10 %), 0:20 elapsed, about 3:00 left")


def test_a_total_that_is_not_known_is_not_told(told: Told) -> None:
    told.at(0).update("evaluate", 0, 0, "batches", waiting="preparing")
    told.at(60).tick()
    told.at(70).update("evaluate", 0, 8, "batches")
    told.at(80).update("evaluate", 1, 8, "batches")
    assert [line for _, line in told.lines] == [
        "evaluate: preparing",
        "evaluate: 1 of 8 batches (12 %), 0:10 elapsed, about 1:10 left",
    ]


def test_the_time_left_is_steady_where_steps_are_uneven() -> None:
    """60 layers, in turns of 20 and 100 seconds: an hour in all, of which a window of a few steps would see a third or 5/3."""
    pace, now, totals = Pace(0.0, 0.0), 0.0, []
    for layer in range(1, 60):
        now += 20 if layer % 2 else 100
        pace.see(layer / 60, now)
        if (left := pace.left_s(now)) is not None:
            totals.append(now + left)
    assert len(totals) == 58
    assert max(abs(total - 3600) for total in totals) < 0.25 * 3600
    assert max(abs(total - 3600) for total in totals[8:]) < 0.07 * 3600


def test_between_steps_it_counts_down_and_grows_only_when_a_step_is_late() -> None:
    pace = Pace(0.0, 0.0)
    pace.see(0.1, 100.0)
    assert [pace.left_s(100 + after) for after in (0, 30, 60, 100)] == pytest.approx([900, 870, 840, 800])
    # The second step takes 300 s so far: at best two tenths in 400 s.
    assert pace.left_s(400.0) == pytest.approx(1600)


def test_nothing_is_said_before_2_percent_or_5_seconds() -> None:
    pace = Pace(0.0, 0.0)
    pace.see(0.019, 60.0)
    assert pace.left_s(60.0) is None
    pace.see(0.02, 61.0)
    assert pace.left_s(61.0) == pytest.approx(49 * 61)
    early = Pace(0.0, 0.0)
    early.see(0.5, 4.9)
    assert early.left_s(4.9) is None
    assert early.left_s(5.0) == pytest.approx(4.8)


def test_a_stage_that_others_began_is_measured_from_where_it_was_first_seen() -> None:
    pace = Pace(0.8, 0.0)
    pace.see(0.85, 60.0)
    assert pace.left_s(60.0) == pytest.approx(180), "not 60 s * 15 / 85"
    early = Pace(0.5, 0.0)
    early.see(0.509, 60.0)
    assert early.left_s(60.0) is None, "half a stage that nobody saw is not 2 %"


def test_a_stage_that_falls_behind_where_it_was_first_seen_is_measured_from_there() -> None:
    pace = Pace(0.5, 0.0)
    pace.see(0.2, 100.0)
    assert pace.left_s(100.0) is None
    pace.see(0.4, 140.0)
    assert pace.left_s(140.0) == pytest.approx(120)
    assert pace.elapsed_s(140.0) == 140


def test_what_is_overdue_or_done_has_no_time_left() -> None:
    pace = Pace(0.0, 0.0)
    pace.see(0.5, 50.0)
    assert pace.left_s(101.0) is None
    pace.see(1.0, 102.0)
    assert pace.left_s(102.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.4, "about 0:05 left"),
        (282.4, "about 4:40 left"),
        (282.6, "about 4:45 left"),
        (597.4, "about 9:55 left"),
        (597.6, "about 10 min left"),
        (754, "about 13 min left"),
        (3599, "about 1 h 0 min left"),
        (7530, "about 2 h 6 min left"),
    ],
)
def test_the_time_left_in_words(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text


def test_the_elapsed_time_in_words() -> None:
    assert [elapsed_text(each) for each in (0.9, 190, 3599.9, 7390)] == ["0:00", "3:10", "59:59", "2:03:10"]


def _job(stage: str, done: int, state: str = "running") -> JobDocument:
    return shown_job(stage=stage, progress={"done": done, "total": 30, "unit": "layers"}, state=state)


def test_bars_and_lines_say_the_same_time_left() -> None:
    console, now = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None), 0.0
    bars = Bars(console, lambda: now)
    bars.update("profile", 0, 30, "layers")
    now = 190.0
    bars.update("profile", 12, 30, "layers")
    with console.capture() as captured:
        console.print(bars.progress)
    (line,) = captured.get().splitlines()
    assert "12/30" in line
    assert line.rstrip().endswith("about 4:45 left")
    assert len(line.rstrip()) <= 80


def test_where_there_is_no_terminal_there_are_events_and_no_bars() -> None:
    file, now = io.StringIO(), 0.0
    message = shown_event(1, type="profile.reused", message="profile reused, 0 forward passes [is no markup]")
    with job_progress(Console(file=file, width=40), lambda: now) as on_update:
        on_update(_job("prepare", 0), [message, shown_event(2, type="item.done", message="not shown")])
        now = 90.0
        on_update(_job("report", 30), [])
        on_update(_job("report", 30, "succeeded"), [])
    assert file.getvalue().splitlines() == [
        "  profile reused, 0 forward passes [is no markup]",
        "prepare: done, 1:30 elapsed",
    ]


def test_on_a_terminal_there_are_bars() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    with job_progress(console) as on_update:
        on_update(_job("prepare", 30, "succeeded"), [])
    assert "30/30" in file.getvalue()
    console.quiet, before = True, file.getvalue()
    with job_progress(console) as on_update:
        on_update(_job("prepare", 30, "succeeded"), [])
    assert file.getvalue() == before


@pytest.mark.parametrize(
    "command",
    [
        ("compress", "nowhere", "--budget", "params=0.5", "--out", "x"),
        ("profile", "nowhere"),
        ("transfer", "nowhere", "--profile", "0" * 64),
        ("apply", "nowhere.json", "nowhere", "--out", "x"),
        ("evaluate", "nowhere"),
        ("latency", "nowhere", "--out", "x"),
        ("jobs", "submit", "plan", "local:tiny"),
        ("jobs", "retry", "nothing"),
    ],
    ids=" ".join,
)
def test_quiet_commands_tell_errors_and_are_quiet_no_longer_than_they_run(
    run: Run, command: tuple[str, ...], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*command, "--quiet")
    assert (code, out, err.startswith("error: ")) == (2, "", True), err
    assert err == run(*command)[2], "an error is the same error"
    assert console.stderr.quiet is False
    assert logging.lastResort is not None
    assert logging.lastResort.level == logging.WARNING
