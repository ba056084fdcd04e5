"""The two commands of the README, as typed, by somebody who has a model in the hub's cache and conversations in files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.e2e.conftest import clean_environment
from tests.support import damage
from tests.support.exports import in_hub_cache
from tests.support.processes import ROOT

SECTION = "## Compress your own model"
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token or '' }}\n{% endfor %}"
TURN = 300


def commands() -> list[str]:
    """The lines of the section's first block."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(SECTION)[1]
    block = re.search(r"\n((?:    .*\n)+)", section)
    assert block is not None
    return [line.strip() for line in block[1].splitlines()]


def chats(text: Path, file: Path) -> None:
    """A text as conversations of four turns."""
    content = text.read_text(encoding="utf-8")
    turns = [content[start : start + TURN] for start in range(0, len(content), TURN)]
    roles = ("user", "assistant")
    with file.open("w", encoding="utf-8") as lines:
        for start in range(0, len(turns), 4):
            four = turns[start : start + 4]
            messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(four)]
            lines.write(json.dumps({"id": start, "messages": messages}) + "\n")


def test_a_model_of_the_hub_s_cache_and_chats_become_a_checkpoint_by_the_two_commands_of_the_readme(
    tmp_path: Path,
) -> None:
    install, compress = commands()
    extras = re.fullmatch(r"pip install 'rankalloc\[(.+)\]'", install)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    model = damage.brief(tmp_path, window=32, calibration=8_000, layers=2)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    chats(model / "calibration.txt", tmp_path / "chats.jsonl")
    chats(model / "evaluation.txt", tmp_path / "held-out.jsonl")
    for name in ("calibration.txt", "evaluation.txt"):
        (model / name).unlink()
    in_hub_cache(model, tmp_path / "huggingface" / "hub", "org/name")
    huggingface = {"HF_HOME": str(tmp_path / "huggingface"), "HF_HUB_OFFLINE": "1"}
    program, *arguments = shlex.split(compress)
    assert program == "rankalloc"
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *arguments],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT), RANKALLOC_THREADS="1", **huggingface),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "conversations through the chat template" in done.stderr
    report = json.loads((tmp_path / "compressed" / "report.json").read_text(encoding="utf-8"))
    (budget,) = report["budgets"]
    assert budget["used"] <= budget["limit"] == round(0.8 * report["dense"]["block_params"])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "compressed" / "compact", trust_remote_code=True)
    assert torch.isfinite(loaded(torch.arange(12)[None]).logits).all()
