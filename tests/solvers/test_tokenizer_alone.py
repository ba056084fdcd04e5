"""``AutoTokenizer`` on what is written, in fresh processes without network: at once, without a word and without code."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.exports import exported
from tests.support.models import save, tiny
from tests.support.processes import ROOT

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
import importlib.util, json, sys
sys.path = [p for p in sys.path if not p or "site-packages" in p or "lib/python" in p]
assert importlib.util.find_spec("solvers") is None
from transformers import AutoTokenizer
options = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    print(AutoTokenizer.from_pretrained(folder, **options)("w5 w6").input_ids)
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


def probe(options: str, folders: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))
    }
    return subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", PROBE, options, *map(str, folders)],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf")},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_it_loads_with_standard_input_closed_and_says_nothing(folders: list[Path], tmp_path: Path) -> None:
    done = probe("{}", folders, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[5, 6]"] * len(folders)
    assert done.stderr == ""


def at_a_terminal(script: str, folders: list[Path], cwd: Path, answer: str = "") -> list[str]:
    """What a process prints whose standard input and output are a pseudo terminal, where somebody has typed ``answer``."""
    ours, theirs = pty.openpty()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script, "{}", *map(str, folders)],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    printed = b""
    while True:
        try:  # on Linux the terminal's end is an error
            part = os.read(ours, 1 << 16)
        except OSError:
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert child.wait() == 0, printed.decode()
    return printed.decode().replace("\r", "").splitlines()


AT_A_TERMINAL = """
import sys
{first}
from transformers import AutoTokenizer
assert sys.stdin.isatty()
for folder in sys.argv[2:]:
    options = {options} if folder.endswith("compact") else {{}}
    print(AutoTokenizer.from_pretrained(folder, **options)("w5 w6").input_ids)
"""


def test_a_terminal_is_asked_nothing(folders: list[Path], tmp_path: Path) -> None:
    """Nobody types: a question would wait for 15 s, and be printed. A padded checkpoint has no code to ask about."""
    script = AT_A_TERMINAL.format(first="", options={"trust_remote_code": False})
    assert at_a_terminal(script, folders, tmp_path) == ["[5, 6]"] * len(folders)


def test_a_terminal_is_asked_nothing_once_the_package_is_imported(
    folders: list[Path], tmp_path: Path
) -> None:
    script = AT_A_TERMINAL.format(first="import solvers", options={})
    assert at_a_terminal(script, folders, tmp_path) == ["[5, 6]"] * len(folders)


def test_no_is_an_answer(folders: list[Path], tmp_path: Path) -> None:
    """Without a word about trust a compact checkpoint is asked about: AutoTokenizer reads config.json as AutoModel does. Up to
    its question no file can make a difference between the two but a ``model_type`` of transformers' own, which would have
    AutoModel take the stock class for these weights."""
    script = AT_A_TERMINAL.format(first="", options={})
    shown = at_a_terminal(script, folders[1:2], tmp_path, "n\n")
    assert shown[-1].endswith("[5, 6]")
    assert sum("[y/N]" in line for line in shown) == 1
