"""``AutoTokenizer`` on what is written, in fresh processes without network: at once, without a word and without code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.exports import exported
from tests.support.models import save, tiny

SCALED = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0}
LONG = {"rope_type": "longrope", "rope_theta": 5e5, "short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"rope_parameters": {**SCALED, "original_max_position_embeddings": 16}}),
    ("qwen2", {"rope_parameters": YARN}),
    ("phi3", {"original_max_position_embeddings": 32, "rope_parameters": LONG}),
    ("gemma3_text", {}),
    ("gpt2", {}),
]
PROBE = """
import builtins, importlib.util, json, sys
sys.path = [p for p in sys.path if not p or "site-packages" in p or "lib/python" in p]
assert importlib.util.find_spec("solvers") is None
from transformers import AutoTokenizer
asked = []
builtins.input = lambda text="": asked.append(text) or ""
options = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    print(AutoTokenizer.from_pretrained(folder, **options)("w5 w6").input_ids, len(asked))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found: list[Path] = []
    for number, (family, options) in enumerate(CASES):
        root = tmp_path_factory.mktemp(f"{family}{number}")
        save(tiny(family, **options).float(), root / "source")
        compact, padded = exported(root / "source", root)
        (compact / "modeling_rankalloc.py").write_text("raise SystemExit('ran')")
        found += [compact] if number else [padded, compact]
    return found


def probe(
    options: str, folders: list[Path], cwd: Path, script: str = PROBE
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))
    }
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", script, options, *map(str, folders)],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf")},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_it_loads_with_standard_input_closed_and_says_nothing(folders: list[Path], tmp_path: Path) -> None:
    unasked = PROBE.replace('builtins.input = lambda text="": asked.append(text) or ""\n', "")
    done = probe("{}", folders, tmp_path, unasked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[5, 6] 0"] * len(folders)
    assert done.stderr == ""


def test_it_asks_nobody_where_no_trust_is_said(folders: list[Path], tmp_path: Path) -> None:
    done = probe('{"trust_remote_code": false}', folders, tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines() == ["[5, 6] 0"] * len(folders)


def test_no_is_an_answer(folders: list[Path], tmp_path: Path) -> None:
    """At a terminal it asks once for a compact checkpoint, and never for a padded one."""
    done = probe("{}", folders[:2], tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["[5, 6] 0", "[5, 6] 1"]), done.stderr
