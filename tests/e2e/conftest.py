"""One real run of ``rankalloc demo``; its checkpoints, reports and store are what the end-to-end tests look at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from allocator.base.settings import Settings
from tests.support.processes import ROOT

EXAMPLES = ROOT / "examples" / "models"
MODELS = ["pylm-llama", "pylm-gpt2"]


@dataclass(frozen=True)
class Demo:
    """A finished demo: its home, its JSON document and what it printed for people."""

    home: Path
    document: dict[str, Any]
    shown: str

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    def report(self, model: str) -> dict[str, Any]:
        (found,) = [report for report in self.document["reports"] if report["model"] == f"local:{model}"]
        return found

    def artifacts(self, model: str) -> Path:
        return self.home / "artifacts" / self.report(model)["job"]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without our settings, but for how many cores to use: others may be at work here."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RANKALLOC_", "PYTHON")) or name == "RANKALLOC_THREADS"
    }
    return {**kept, "HF_HUB_OFFLINE": "1", **more}


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    home = tmp_path_factory.mktemp("demo") / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "demo", "--json"],
        env=clean_environment(RANKALLOC_HOME=str(home)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, shown = process.communicate(timeout=570)
    finally:
        # Where it took too long, its service must not go on working beside the other tests.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, shown
    return Demo(home, json.loads(printed), shown)
