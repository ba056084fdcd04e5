"""``rankalloc profile`` on tiny models: measured once, asked, and carried to another store, where nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from allocator.base.settings import Settings
from allocator.plan.planning import plan_from_profile
from allocator.store import Store
from tests.e2e.test_families import source_of
from tests.support.command import run
from tests.support.models import SLIDING_QWEN


@pytest.mark.parametrize(
    ("family", "options"), [("llama", {}), ("qwen3", SLIDING_QWEN), ("mixtral", {}), ("gpt_neox", {})]
)
def test_a_profile_is_measured_once_and_trusted_elsewhere(
    family: str,
    options: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, here, there = source_of(tmp_path, family, options), tmp_path / "here", tmp_path / "there"
    command = ("profile", source, "--effort", "fast", "--json")
    code, out, err = run(capsys, monkeypatch, here, *command)
    assert code == 0, err
    assert "profile to make:" in err, "the cost is stated beforehand"
    measured = json.loads(out)
    key = measured["profile_key"]
    losses = [each["loss_nats"] for each in measured["most_sensitive"]]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0
    assert measured["cost"]["measured_tokens"] > 0
    code, _, err = run(capsys, monkeypatch, here, *command)
    assert (code, "profile reused, 0 forward passes" in err) == (0, True)
    assert run(capsys, monkeypatch, here, *command, "--quiet") == (0, out, "")

    file = tmp_path / "file"
    assert run(capsys, monkeypatch, here, "profiles", "export", key, "--out", file)[0] == 0
    assert run(capsys, monkeypatch, there, "profiles", "import", file, "--trust")[0] == 0
    shown = [
        json.loads(run(capsys, monkeypatch, home, "profiles", "curves", key[:8], "--json")[1])
        for home in (here, there)
    ]
    assert shown[0] == shown[1]
    assert len(shown[0]["curves"]) % 3 == 0
    code, out, err = run(capsys, monkeypatch, there, *command)
    assert (code, "profile reused, 0 forward passes" in err) == (0, True)
    assert json.loads(out) == measured


def test_a_profile_around_a_plan_is_asked_from_the_plan_s_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, home = source_of(tmp_path, "llama", {}), tmp_path / "home"
    command = ("profile", source, "--effort", "fast", "--json")
    first = json.loads(run(capsys, monkeypatch, home, *command)[1])["profile_key"]
    store = Store.open(Settings(home=home))
    plan = plan_from_profile(store.profiles.get("default", first), ["block_params=0.8"])
    store.plans.put("default", plan, created_by="default")
    store.close()
    code, out, err = run(capsys, monkeypatch, home, *command, "--around", plan.digest)
    assert code == 0, err
    found = json.loads(out)
    assert found["profile_key"] != first
    for each in found["most_sensitive"]:
        assert each["from_rank"] == getattr(plan.ranks[each["layer"]], each["component"])
    file = tmp_path / "file"
    assert run(capsys, monkeypatch, home, "profiles", "export", found["profile_key"], "--out", file)[0] == 0
    code, out, _ = run(capsys, monkeypatch, tmp_path / "there", "profiles", "import", file, "--json")
    assert (code, json.loads(out)["stored"]) == (0, True)
    code, _, err = run(capsys, monkeypatch, home, *command, "--around", "0" * 64)
    assert (code, "error:" in err) == (2, True)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--effort", "heroic"), "--effort: 'heroic' is not gradient or fast or standard or thorough"),
        (("--solver", "pca"), "--solver: 'pca' is not a3 or a3+ or a3+joint or a3+latent or svd"),
        (("--device", "tpu"), "--device: 'tpu' is not cpu or cuda"),
        (("--calibration", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_a_wrong_option_exits_2_before_any_work(
    option: tuple[str, str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = source_of(tmp_path, "llama", {})
    code, _, err = run(capsys, monkeypatch, tmp_path / "home", "profile", source, *option)
    assert code == 2
    assert says in err
    assert not (tmp_path / "home").exists()
