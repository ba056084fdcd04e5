"""A model made for a target, from the command to a checkpoint that loads there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support import damage
from tests.support.command import run
from tests.support.homes import BUDGETS, WINDOW, Home, opened_home

LOADED = """
import json, sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
with torch.no_grad():
    logits = model(torch.arange(20)[None]).logits
size, last = model.config.intermediate_size, logits[0, -1, :8].tolist()
print(json.dumps({"class": type(model).__module__, "size": size, "logits": last}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with opened_home(tmp_path_factory.mktemp("targets") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage.brief(tmp_path_factory.mktemp("profiled"), window=WINDOW, calibration=12_000, layers=2)


def test_a_plan_for_stock_loads_without_our_code_and_computes_the_same(
    home: Home,
    model: Path,
) -> None:
    asked = {"effort": "fast", "refine": 0, "baselines": "none"}
    made = home.run(
        model, "compress", budgets=["block_params=0.8"], constraints={"target": ["stock"]}, **asked
    )
    written = home.settings.artifacts_dir / made.id
    assert sorted(path.name for path in written.iterdir() if path.is_dir()) == ["compact", "stock"]
    plan = json.loads((written / "plan.json").read_text())
    assert plan["constraints"]["target"] == ["stock"]
    (size,) = {row["mlp"] for row in plan["ranks"]}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED, str(written / "stock")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["class"].startswith("transformers.models.")
    assert found["size"] == size
    compact = AutoModelForCausalLM.from_pretrained(
        written / "compact", dtype=torch.float32, trust_remote_code=True
    )
    with torch.no_grad():
        expected = compact(torch.arange(20)[None]).logits[0, -1, :8]
    assert torch.allclose(torch.tensor(found["logits"]), expected, atol=1e-4)


def test_a_checkpoint_that_cannot_hold_the_plan_is_refused_before_work(
    home: Home,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = home.run(model, "plan", effort="fast", budgets=BUDGETS)
    monkeypatch.setenv("RANKALLOC_THREADS", "1")
    common = ("--out", tmp_path / "out", "--export", "stock")
    code, _, err = run(
        capsys, monkeypatch, home.settings.home, "apply", str(planned.plan_digest), model, *common
    )
    assert code == 2
    assert "export: layer 0 qk has rank" in err
    assert "use a plan made with --target stock" in err
    code, _, err = run(
        capsys, monkeypatch, home.settings.home, "compress", model, "--budget", "block_params=0.8", *common
    )
    assert code == 2
    assert "export: stock works beside --target stock" in err
    assert not (tmp_path / "out").exists()
