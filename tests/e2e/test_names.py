"""Folders and files may be called anything: home, model, texts and out, through every one-shot command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import damage
from tests.support.command import run
from tests.support.names import EVERYTHING


def test_names_mean_nothing_to_any_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKALLOC_THREADS", "1")
    place = tmp_path / EVERYTHING
    place.mkdir()
    damage.brief(place, window=64, calibration=12_000, layers=2).rename(place / f"model {EVERYTHING}")
    model, home, out = (place / f"{name} {EVERYTHING}" for name in ("model", "home", "out"))
    calibration, evaluation = (place / f"{name} {EVERYTHING}.txt" for name in ("calibration", "evaluation"))
    for text in (calibration, evaluation):
        (model / f"{text.name.partition(' ')[0]}.txt").rename(text)
    texts = ("--calibration", calibration, "--evaluation", evaluation)
    before = {path.name for path in place.iterdir()}

    def done(*arguments: object) -> tuple[str, str]:
        code, printed, shown = run(capsys, monkeypatch, home, *arguments)
        assert code == 0, shown
        return printed, shown

    fast = ("--effort", "fast")
    printed, _ = done("profile", model, *texts[:2], *fast, "--json")
    key = json.loads(printed)["profile_key"]
    budget = ("--budget", "block_params=80%")
    printed, shown = done(
        "compress", model, *texts, *budget, *fast, "--refine", 0, "--baselines", "none", "--out", out
    )
    assert "profile reused" in shown
    assert f"written to {out}: " in shown
    assert EVERYTHING in printed
    done("plan", key, *budget, "--out", place / EVERYTHING / "plan.json")
    printed, _ = done("jobs", "list", "--json")
    assert {job["state"] for job in json.loads(printed)["items"]} == {"succeeded"}
    printed, _ = done("evaluate", out / "compact", "--evaluation", evaluation, "--dense", model)
    assert EVERYTHING in printed
    applied = ("--baselines", "none", "--out", place / EVERYTHING / "applied")
    done("apply", place / EVERYTHING / "plan.json", model, *texts, *applied)
    assert {path.name for path in place.iterdir()} == before | {home.name, out.name, EVERYTHING}
    assert (home / "rankalloc.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [EVERYTHING]
    assert EVERYTHING.replace("&", "&amp;") in (out / "report.html").read_text(encoding="utf-8")
