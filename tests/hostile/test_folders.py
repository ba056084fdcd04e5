"""Every hostile folder ends a real job with a reason, at once, within memory, and leaves nothing where it does not belong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.hostile.judge import CASES
from tests.support.processes import ROOT

REFUSED = ("unreadable_model", "unsupported_model", "unusable_text")
OWN_MIB = 1200
"""Of the process with torch in it, some 400 MiB of which are there before a job begins."""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.judge", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    assert len(lines) == len(CASES), done.stderr[-3000:]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_the_job_fails_with_a_reason(ends: dict[str, dict[str, Any]], case: str) -> None:
    end = ends[case]
    assert end["state"] == "failed", end
    error = end["error"]
    assert error["type"] in REFUSED, error
    assert re.search(CASES[case][1], error["detail"]), error["detail"]
    assert error["detail"].isprintable()
    assert len(error["detail"]) <= 1010
    assert end["retried"] == 0, "what is hostile now will be so in a minute"
    assert end["outside"] == []
    assert end["own_mib"] < OWN_MIB
