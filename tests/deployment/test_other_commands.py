"""What pages tell people to type beside ``rankalloc`` itself (`tests/api/test_typed.py`): make, modules, engines.

None of it is run here. ``make demo`` is ``rankalloc demo``, which `tests/e2e` runs; ``make test`` is the run that this is part
of; engines are no dependencies, and what is run of them is in `tests/serving`, `tests/support/llama_cpp.py` and
`benchmarks/serving`. What is checked is that targets, modules and options are there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}


def typed() -> Iterator[str]:
    """Every indented line, with those that it goes on in, and every piece of code within a line."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        blocks = "\n".join(re.findall(r"(?:^    .*\n)+", text, re.MULTILINE))
        yield from re.sub(r"\\\n\s*", " ", blocks).splitlines()
        yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))


def words_after(*start: str) -> list[list[str]]:
    """The words behind this beginning of every such line."""
    lines = {line.strip() for line in typed()}
    split = [shlex.split(line, comments=True) for line in sorted(lines) if line.startswith(" ".join(start))]
    return [words[len(start) :] for words in split if words[: len(start)] == list(start)]


def dry_run(*arguments: str) -> str:
    """The commands that make would run."""
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_target_that_pages_name_exists_and_takes_its_variables() -> None:
    calls = words_after("make")
    assert {"demo", "test", "bench", "check-vllm"} <= {words[0] for words in calls}
    for words in calls:
        commands = dry_run(*words)
        for variable in words[1:]:
            assert variable.partition("=")[2] in commands, words


def test_the_first_two_commands_of_the_readme_are_the_demo_and_the_tests() -> None:
    assert dry_run("demo").rstrip().endswith(".venv/bin/rankalloc demo")
    assert re.search(r"\.venv/bin/python -m pytest -n 2$", dry_run("test").rstrip())


def source(module: str) -> str:
    """The text of a module that ``python -m`` runs, and of modules beside it that it takes options from."""
    place = ROOT.joinpath(*module.split("."))
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    text = file.read_text(encoding="utf-8")
    folder = module.partition(".")[0]
    for imported in re.findall(rf"^from ({folder}[.\w]*) import", text, re.MULTILINE):
        beside = ROOT.joinpath(*imported.split(".")).with_suffix(".py")
        text += beside.read_text(encoding="utf-8") if beside.is_file() else ""
    return text


@pytest.mark.parametrize("folder", ["api", "benchmarks", "tests"])
def test_every_module_that_pages_run_exists_and_takes_its_options(folder: str) -> None:
    calls = [words for words in words_after("python", "-m") if words and words[0].startswith(f"{folder}.")]
    assert calls
    for module, *arguments in calls:
        text = source(module)
        for word in arguments:
            if option := re.match(r"\[?(--[a-z-]+)", word):
                assert f'"{option[1]}"' in text, (module, option[1])


def test_vllm_is_served_with_options_that_our_checks_pass_to_it() -> None:
    """But for ``--hf-overrides``, which none passes: its value is read by a config in `tests/solvers/test_engines.py`."""
    servers = ["vllm", "serve"], ["python", "-m", "vllm.entrypoints.openai.api_server"]
    options = {
        word for start in servers for words in words_after(*start) for word in words if word.startswith("--")
    }
    assert "--trust-remote-code" in options
    folders = (ROOT / "tests" / "serving", ROOT / "benchmarks" / "serving")
    checks = "".join(file.read_text(encoding="utf-8") for folder in folders for file in folder.glob("*.py"))
    passed = set(
        re.findall(r"\b([a-z_]+)=", "".join(re.findall(r"\bLLM\((.*?)\n    +\)", checks, re.DOTALL)))
    )
    assert {"model", "trust_remote_code"} <= passed
    assert {option[2:].replace("-", "_") for option in options} - passed == {"hf_overrides"}


def test_llama_cpp_is_served_with_a_file_alone() -> None:
    """``-m`` is ``parameters.model.path`` of the wheel that `tests/support/llama_cpp.py` runs."""
    calls = words_after("llama-server")
    assert calls
    for option, file in calls:
        assert option == "-m"
        assert Path(file).parts[-2:] == ("gguf", "model.gguf")
