"""Windows that a request names, through real jobs: what they change, and what they do not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from allocator.store import Job
from solvers.texts.text import read_text
from tests.e2e.test_families import source_of
from tests.support import damage
from tests.support.command import run
from tests.support.homes import Home, opened_home

CONTEXT = 64
BUDGETS = ["block_params=0.8"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with opened_home(tmp_path_factory.mktemp("windows") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("short"), window=CONTEXT, calibration=12_000, layers=2)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context of 512 tokens and a text of little more than the least of such windows."""
    made = damage.brief(tmp_path_factory.mktemp("long"), window=512, calibration=17_000, layers=2)
    text = (made / "calibration.txt").read_text(encoding="utf-8")
    while len(read_text(made / "calibration.txt", made, window=512, what="calibration").windows) > 9:
        text = text[: int(0.95 * len(text))]
        (made / "calibration.txt").write_text(text, encoding="utf-8")
    return made


def document(home: Home, job: Job, name: str) -> Any:
    return json.loads((home.settings.artifacts_dir / job.id / name).read_text(encoding="utf-8"))


def read_event(home: Home, job: Job) -> str:
    (found,) = [
        event.message for event in home.store.events.list(job.team, job.id) if event.type == "model.read"
    ]
    return found


def test_what_is_usual_may_be_said_without_changing_a_key(home: Home, model: Path) -> None:
    plain = home.run(model, effort="fast")
    said = home.run(model, effort="fast", sequence_length=CONTEXT, samples=768)
    assert said.profile_key == plain.profile_key
    assert home.counts(said) == {"measured": 0, "again": 0, "calibrated": 0}
    fit = home.profile(plain).calibration.fit_windows
    assert fit < 768
    assert f"of the 768 asked for, the text has {fit}" in read_event(home, said)
    assert "asked for" not in read_event(home, plain)


def test_fewer_samples_and_shorter_windows_are_other_profiles(home: Home, model: Path) -> None:
    plain = home.profile(home.run(model, effort="fast"))
    few, short = (
        home.run(model, effort="fast", **change)
        for change in ({"samples": 16}, {"samples": 16, "sequence_length": 32})
    )
    solutions = [each.identity["solution"] for each in (plain, home.profile(few), home.profile(short))]
    assert [each["window_tokens"] for each in solutions] == [64, 64, 32]
    assert solutions[1]["fit_windows"] == 16
    assert solutions[2]["block_windows"] == 2 * solutions[0]["block_windows"]
    assert len({plain.key, few.profile_key, short.profile_key}) == 3
    assert solutions[2]["fit_windows"] == 16
    # Measured on the same windows, after moments over fewer.
    assert home.profile(few).calibration.measure_windows == plain.calibration.measure_windows


def test_a_fine_tune_is_compared_in_the_windows_of_the_profile(home: Home, model: Path) -> None:
    profiled = home.run(model, effort="fast", samples=16, sequence_length=32)
    compared = home.run(model, "transfer", profile=profiled.profile_key)
    assert document(home, compared, "transfer.json")["verdict"] == "reuse"
    solution = home.store.items.results(compared.id)["prepare"][0]["identity"]["solution"]
    assert solution == home.profile(profiled).identity["solution"]


def test_the_evaluation_has_windows_of_its_own(
    home: Home, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request: dict[str, Any] = {"effort": "fast", "budgets": BUDGETS, "refine": 0, "export": ["compact"]}
    usual = home.run(model, "compress", **request)
    short = home.run(model, "compress", **request, evaluation_length=32)
    assert short.profile_key == usual.profile_key
    assert short.plan_digest == usual.plan_digest
    reports = [document(home, job, "report.json") for job in (usual, short)]
    assert [report["evaluation"]["window_tokens"] for report in reports] == [CONTEXT, 32]
    assert [report["calibration"]["window_tokens"] for report in reports] == [CONTEXT, CONTEXT]
    assert reports[0]["plan"]["measured_loss_nats"] == reports[1]["plan"]["measured_loss_nats"]
    folder = home.settings.artifacts_dir / short.id / "compact"
    for name, text in (("README.md", "in windows of 32 tokens"), ("../report.html", "in windows of 32 tok")):
        assert text in (folder / name).read_text(encoding="utf-8")
    measured = [
        each["measured"] for each in home.store.plans.measurements(short.team, str(short.plan_digest))
    ]
    assert {each["evaluation_window_tokens"] for each in measured} == {CONTEXT, 32}
    # The same figure from the model's own logits over windows cut by hand.
    for length, report in ((CONTEXT, reports[0]), (32, reports[1])):
        windows = read_text(model / "evaluation.txt", model, window=length, what="evaluation").windows
        assert report["evaluation"]["windows"] == len(windows)
        dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = dense(windows).logits[:, :-1]
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        assert report["dense"]["evaluation_nll_nats"] == pytest.approx(float(expected), rel=1e-5)
    more = ("--evaluation", model / "evaluation.txt", "--evaluation-length", 32, "--json")
    code, printed, shown = run(capsys, monkeypatch, home.settings.home, "evaluate", folder, *more)
    assert code == 0, shown
    found = json.loads(printed)
    assert found["evaluation"]["window_tokens"] == 32
    assert math.isclose(
        found["model"]["evaluation_nll_nats"], reports[1]["plan"]["evaluation_nll_nats"], rel_tol=1e-6
    )


def test_windows_longer_than_usual_make_a_whole_compression(home: Home, long: Path) -> None:
    """Eight or nine windows of 512 tokens, the least: six or seven for moments, two to measure on, one to judge healing by."""
    request: dict[str, Any] = {"effort": "fast", "budgets": BUDGETS, "refine": 0, "export": ["compact"]}
    job = home.run(long, "compress", **request, sequence_length=512, evaluation_length=300, heal=1)
    profile = home.profile(job)
    solution, effort = profile.identity["solution"], profile.identity["effort"]
    assert (solution["window_tokens"], solution["block_windows"]) == (512, 8)
    assert (effort["first_windows"], effort["most_windows"]) == (8, 8)
    calibration = profile.calibration.document
    assert calibration["fit_windows"] + calibration["measure_windows"] in (8, 9)
    assert {point.windows for curve in profile.curves for point in curve.measured} == {
        calibration["measure_windows"]
    }
    report = document(home, job, "report.json")
    assert report["evaluation"]["window_tokens"] == 300
    assert report["heal"]["validation_windows"] == 1
    assert report["plan"]["measured_loss_nats"] < report["uniform"]["measured_loss_nats"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sequence-length", 65), "sequence_length: 65 is not a number of tokens from 16 to 64"),
        (("--sequence-length", 15), "--sequence-length"),
        (("--samples", 15), "--samples"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_any_work(
    options: tuple[object, ...],
    said: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, _, shown = run(capsys, monkeypatch, tmp_path / "home", "profile", model, *options)
    assert code == 2
    assert said in shown
    assert not (tmp_path / "home").exists()


def test_the_command_takes_windows_to_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = source_of(tmp_path, "llama", {})
    (model / "evaluation.txt").write_bytes((model / "calibration.txt").read_bytes())
    more = ("--effort", "fast", "--samples", 32, "--sequence-length", 16, "--json")
    code, printed, shown = run(capsys, monkeypatch, tmp_path / "home", "profile", model, *more)
    assert code == 0, shown
    assert "calibration on 32 + " in shown
    assert "windows of 16 tokens" in shown
    with opened_home(tmp_path / "home") as there:
        found = there.store.profiles.get("default", json.loads(printed)["profile_key"])
    assert found.identity["solution"]["window_tokens"] == 16
    assert found.identity["solution"]["fit_windows"] == 32
    for options in (("--evaluation-length", 65), ("--evaluation-length", 15)):
        code, _, shown = run(capsys, monkeypatch, tmp_path / "home", "evaluate", model, *options)
        assert code == 2, shown
        assert "evaluation_length: 65" in shown or "--evaluation-length" in shown
