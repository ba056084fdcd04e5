"""The README's walk of two people through one service, with real processes and a trained model, as typed.

Of the model there are two layers, with a context of 64 tokens and little text: what is walked through is commands. The
demo's tests have the whole one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import clean_environment
from tests.support import damage
from tests.support.homes import WINDOW
from tests.support.processes import ROOT


def run(command: str, folder: Path, *, status: int = 0, **environment: str) -> str:
    """Standard output of a command line of the README."""
    words = command.split()
    assert words[0] == "rankalloc"
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *words[1:]],
        env=clean_environment(PYTHONPATH=str(ROOT), COLUMNS="400", **environment),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    models = tmp_path / "models"
    damage.brief(models, window=WINDOW, calibration=12_000, layers=2).rename(models / "pylm-llama")
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--json"],
        env=clean_environment(RANKALLOC_HOME=str(tmp_path / "home"), RANKALLOC_MODEL_ROOTS=str(models)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("}"):
            break
    yield str(json.loads("".join(lines))["url"])
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)


def typed() -> list[str]:
    """The commands of the README's section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Two people, one service")[2].partition("\n## ")[0]
    return re.findall(r"^    (rankalloc .*)$", section, re.MULTILINE)


def test_two_people_share_a_service(service: str, tmp_path: Path) -> None:
    tokens = {}
    here = {"RANKALLOC_HOME": str(tmp_path / "home")}
    commands = iter(typed())
    for name in ("ada", "bob"):
        made = run(f"{next(commands)} --json", tmp_path, **here)
        tokens[name] = json.loads(made)["token"]
    ada, bob = ({"RANKALLOC_SERVER": service, "RANKALLOC_TOKEN": tokens[name]} for name in ("ada", "bob"))
    run("rankalloc profiles list", tmp_path, status=2, RANKALLOC_SERVER=service)  # nobody without a token

    job = json.loads(run(f"{next(commands)} --json", tmp_path, **ada))
    assert job["state"] == "succeeded"
    (profile,) = json.loads(run(f"{next(commands)} --json", tmp_path, **ada))["items"]
    assert profile["key"] == job["profile_key"]
    plan = json.loads(run(next(commands).replace("KEY", profile["key"][:12]) + " --json", tmp_path, **ada))
    assert "prod" in run(next(commands).replace("PLAN", plan["digest"][:12]), tmp_path, **ada)

    listed = json.loads(run(f"{next(commands)} --json", tmp_path, **bob))["items"]
    assert {job["plan"], plan["digest"]} <= {each["digest"] for each in listed}
    assert all(each["created_by"] == "ada" for each in listed)
    shown = run(next(commands).replace("OTHER", job["plan"][:12]), tmp_path, **bob)
    assert re.search(r"layer \d (QK|OV|MLP) \d+ -> \d+, ", shown)
    run(next(commands), tmp_path, **bob)
    report = json.loads((tmp_path / "compressed" / "report.json").read_text(encoding="utf-8"))
    ranks = json.loads((tmp_path / "compressed" / "plan.json").read_text(encoding="utf-8"))["ranks"]
    assert ranks == plan["ranks"]
    assert 10 * report["plan"]["block_params"] <= 7 * report["dense"]["block_params"]
    assert (tmp_path / "compressed" / "compact" / "model.safetensors").is_file()
    assert next(commands, None) is None
