"""Tables through a pipe that takes ASCII alone, of 80 columns, whatever a model is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allocator.base.settings import Settings
from allocator.store import Store
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile

COMMANDS = """
import sys
from api.cli.main import main
for line in sys.argv[1].splitlines():
    sys.argv = ["rankalloc", *line.split()]
    print("$", line, flush=True)
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_every_table_is_readable_where_only_some_signs_can_be_said(tmp_path: Path, encoding: str) -> None:
    store = Store.open(Settings(home=tmp_path), create=True)
    profile = measured_profile(reference="path:größe-模型-" + "very-" * 20 + "long")
    store.profiles.put("default", profile)
    store.close()
    key = profile.key
    lines = [
        *(f"plan {key} --budget block_params=0.8", "plans list", "profiles list", f"profiles show {key}"),
        *(
            f"profiles sensitive {key}",
            f"profiles curves {key}",
            f"frontier {key} --metric block_params --points 3",
        ),
        *("jobs list", "teams list", "tokens list"),
    ]
    environment = {**os.environ, "RANKALLOC_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, "\n".join(lines)],
        env=environment | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    shown = done.stdout.decode(encoding)
    assert max(len(line) for line in shown.splitlines() if line[:1] in "|+") <= 80
    assert ("gr??e" if encoding == "ascii" else "größe") in shown
    assert " > " in shown, "from one rank to another"
    assert "?" * 30 not in shown, "tables are drawn with what there is"


def test_an_output_that_is_full_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", "profiles", "list"],
            env={**os.environ, "RANKALLOC_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left on device; make room" in done.stderr
