"""Texts in other forms than plain ones, and texts that were seen, through the command that people type."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from tests.support import damage
from tests.support.command import run
from tests.support.dataset_hub import Repository, dataset_hub, used

FAST = ("--budget", "block_params=80%", "--effort", "fast", "--refine", "0", "--export", "compact")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKALLOC_THREADS", "1")
    return damage.brief(tmp_path, window=64, calibration=12_000, layers=2)


def records(column: str, text: str, parts: int) -> bytes:
    """The text as so many records, which joined by blank lines are the text again; compressed."""
    documents = text.split("\n\n", parts - 1)
    content = "".join(json.dumps({"id": n, column: each}) + "\n" for n, each in enumerate(documents))
    return gzip.compress(content.encode())


def test_the_same_text_as_records_is_the_same_profile_and_a_seen_one_is_marked_everywhere(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    text = (model / "calibration.txt").read_text(encoding="utf-8")
    content, calibration = records("body", text, 5), tmp_path / "chats.jsonl.gz"
    calibration.write_bytes(content)

    def compressed(*options: object) -> tuple[str, str, dict[str, Any], Path]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        code, printed, shown = run(
            capsys, monkeypatch, home, "compress", model, *FAST, "--out", out, *options
        )
        assert code == 0, shown
        return printed, shown, json.loads((out / "report.json").read_text(encoding="utf-8")), out

    printed, shown, report, out = compressed()
    assert "calibration: plain text, " in shown
    assert "block_params <= " in shown
    assert "(80 % of " in shown
    assert "perplexity, held out" in printed
    assert report["evaluation"]["shared_windows"] == 0
    assert "text that nothing saw" in (out / "compact" / "README.md").read_text(encoding="utf-8")

    again = ("--calibration", calibration, "--text-column", "body", "--evaluation", model / "calibration.txt")
    printed, shown, seen, out = compressed(*again)
    assert "calibration: 5 texts of column 'body', " in shown
    assert "profile reused" in shown, "a text is named by its content"
    assert seen["calibration"]["sha256"] == report["calibration"]["sha256"]
    windows = seen["evaluation"]["windows"]
    said = f"the evaluation text was seen: {windows} of its {windows} windows (100 %) also occur in the calibration"
    assert f"warning: {said}" in shown
    assert seen["evaluation"]["shared_windows"] == windows
    assert "perplexity, seen" in printed
    assert said in " ".join(printed.split())
    card = (out / "compact" / "README.md").read_text(encoding="utf-8")
    assert said in card
    assert "nothing saw" not in card
    assert "5 texts of column 'body', " in card
    assert said in " ".join((out / "report.html").read_text(encoding="utf-8").split())
    store = Store.open(Settings(home=home))
    measured = [each["measured"] for each in store.plans.measurements("default", seen["plan"]["digest"])]
    store.close()
    assert {each["evaluation_shared_windows"] for each in measured} == {0, windows}

    code, printed, shown = run(
        capsys,
        monkeypatch,
        home,
        "evaluate",
        out / "compact",
        "--evaluation",
        calibration,
        "--text-column",
        "body",
    )
    assert code == 0, shown
    assert "of 5 texts of column 'body'" in printed

    repository = Repository({"main": {"train.jsonl.gz": content}})
    commit = repository.commit("main")
    with dataset_hub({"team/chats": repository}) as hub:
        used(monkeypatch, hub.url, tmp_path / "cache")
        again = ("--calibration", "hf:team/chats", "--text-column", "body")
        printed, shown, fetched, out = compressed(*again, "--baselines", "none")
    source = f"hf:team/chats@{commit}:default:train"
    assert f"calibration: {source}, at most 12 MiB of text" in shown
    assert "calibration: 5 texts of column 'body', " in shown
    assert "profile reused" in shown, "a hub's text is named by its content too"
    assert fetched["calibration"]["source"] == source
    assert fetched["calibration"]["sha256"] == report["calibration"]["sha256"]
    assert "source" not in fetched["evaluation"]
    card = (out / "compact" / "README.md").read_text(encoding="utf-8")
    assert f"5 texts of column 'body' of `{source}`, " in card
