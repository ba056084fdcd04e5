"""What pages tell people to type: lines of ``rankalloc`` are understood, and those of the README about profiles and jobs run.

Other commands are in `tests/deployment/test_other_commands.py`; those that need a model are run in `tests/e2e`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from fastapi.testclient import TestClient

from allocator.base.settings import Settings
from allocator.store import Store
from api.cli.main import app
from tests.support import command
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words behind ``rankalloc`` of every indented command line."""
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if typed := re.match(r"    (?:[A-Z_]+=\S+ )*rankalloc (.*)", line):
                yield shlex.split(typed[1], comments=True)


def test_every_command_line_of_the_docs_is_understood() -> None:
    group = typer.main.get_command(app)
    lines = [(page.name, words) for page in PAGES for words in command_lines(page.read_text("utf-8"))]
    assert len(lines) > 50
    for page, words in lines:
        name, here, rest, context = "rankalloc", group, list(words), None
        while True:
            try:
                context = here.make_context(name, rest, parent=context)
            except typer.BadParameter as error:
                if "does not exist" in error.message:  # a reader's own file
                    break
                pytest.fail(f"{page}: {words}: {error.message}")
            if not hasattr(here, "resolve_command"):
                break
            name, here, rest = here.resolve_command(context, [*context._protected_args, *context.args])


def section(title: str) -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").split(title)[1].split("\n## ")[0]


def test_the_readme_s_questions_about_a_profile_are_answered(
    store: Store,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    asked = list(command_lines(section("## Query what was measured")))
    assert [" ".join(words[:2]) for words in asked] == [
        "profiles list", "profiles sensitive", "plan KEY", "plan KEY", "transfer path/to/fine-tune",
    ]  # fmt: skip
    for words in asked[:-1]:  # transfer opens a model: tests/e2e has it
        typed = [profile.key[:12] if word == "KEY" else word for word in words]
        code, out, err = command.run(capsys, monkeypatch, settings.home, *typed)
        assert (code, bool(out)) == (0, True), (words, err)


def test_the_readme_s_request_of_a_job_is_accepted(client: TestClient, settings: Settings) -> None:
    model = settings.model_roots[0] / "pylm-llama"
    model.mkdir(parents=True)
    for name in ("config.json", "calibration.txt", "evaluation.txt"):
        Path(model, name).write_text("{}")
    typed = re.search(
        r"curl -s localhost:8321(\S+) -H '([^:]+): ([^']+)' \\\n\s+-d '(.+)'", section("## Run the service")
    )
    assert typed is not None
    path, name, value, body = typed.groups()
    answer = client.post(path, headers={name: value}, content=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["budgets"] == json.loads(body)["budgets"]
