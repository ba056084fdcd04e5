"""What is served, run or set is in the reference; what the reference names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.testclient import TestClient
from pydantic import BaseModel
from typer.testing import CliRunner

from allocator.base.settings import PREFIX, Settings
from allocator.plan.ask.constraints import KINDS
from allocator.plan.targets.registry import TARGETS
from allocator.stages.request import Request
from allocator.store import Store
from api.cli.main import app
from api.reference import commands, pages, routes, tables
from api.schemas import aliases, notes, plans, requests, teams
from tests.support.processes import ROOT
from tests.support.profiles import measured_profile

REFERENCE = ROOT / "docs" / "reference"


def documented(page: str, pattern: str) -> set[str]:
    """What the tables of a page name in their first column."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return set(re.findall(rf"^\| `{pattern}", text, re.MULTILINE))


@pytest.fixture
def description(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_route_has_its_line(description: dict[str, Any]) -> None:
    served = {
        f"{method.upper()} {path}" for path, methods in description["paths"].items() for method in methods
    }
    assert documented("rest.md", r"((?:GET|PUT|POST|DELETE|PATCH) [^`?]+)") == served


def _commands(group: Any, prefix: str) -> set[str]:
    found = set()
    for name, command in group.commands.items():
        full = f"{prefix} {name}"
        found |= _commands(command, full) if hasattr(command, "commands") else {full}
    return found


def test_every_command_has_its_line() -> None:
    commands = _commands(typer.main.get_command(app), "rankalloc")
    lines = documented("cli.md", r"(rankalloc [^`]*)")
    named = {
        command
        for command in commands
        if any(line == command or line.startswith(f"{command} ") for line in lines)
    }
    assert named == commands
    for line in lines:
        assert any(line == command or line.startswith(f"{command} ") for command in commands), line


def test_submit_takes_and_explains_every_field_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    command = typer.main.get_command(app).commands["jobs"].commands["submit"]  # type: ignore[attr-defined]
    fields = {*Request.model_fields, *KINDS, "budget"} - {"budgets", "constraints"}
    assert fields <= {param.name for param in command.params}
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(app, ["jobs", "submit", "--help"])
    assert result.exit_code == 0
    for said in (
        "For transfer: the key of the profile to compare with.",
        "Upper limits, all of which hold at once: metric=value[@option=value,...].",
        "How a new profile is made; default gradient, with bits or around standard. One of gradient, fast,",
    ):
        assert said in result.output


def test_every_setting_has_its_line() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    assert documented("settings.md", rf"({PREFIX}[A-Z_]+)`") == settings


def test_a_setting_s_line_is_its_default_and_its_text() -> None:
    lines = tables.settings_table().splitlines()
    for line in (
        "| `RANKALLOC_HUB_LIMIT_BYTES` | 400 GiB | Largest `hf:` model that a worker downloads. |",
        "| `RANKALLOC_BROKER_URL_FILE` | - | A file holding `broker_url`. |",
        "| `RANKALLOC_LEASE_S` | `30.0` | How long a worker may stay silent before its item is given to another. |",
        "| `RANKALLOC_LAYER_MEMORY_BYTES` | `0` | How much of a dense model's layers an item keeps in memory as float32;"
        " the others are read from the checkpoint when they are run. At least two layers. 0: 128 MiB, on `cuda` half of"
        " what the device has free. |",
    ):
        assert line in lines
    assert str(ROOT) not in "\n".join(lines), "no folder of this machine"


def test_every_target_has_its_ranks_and_its_cache() -> None:
    text = (REFERENCE / "constraints.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `([a-z.-]+)`", text.partition("## Targets")[2], re.MULTILINE)
    assert lines == [*TARGETS, *TARGETS]


def test_a_command_s_line_is_its_arguments_its_options_and_its_help() -> None:
    lines = commands.commands_table().splitlines()
    for line in (
        "| `rankalloc serve [--host 127.0.0.1] [--port 8321] [--no-dispatch] [--json]` | Run the service: REST API, dispatcher"
        " and, with embedded defaults, one worker process. |",
        "| `rankalloc push FOLDER --repo OWNER/NAME [--private] [--dry-run] [--json]` | Send a compact checkpoint with its card"
        " to a Hugging Face hub, by the token in HF_TOKEN (HF_ENDPOINT: another hub). |",
        "| `rankalloc plans alias delete NAME --version VERSION [--server URL] [--json]` | Forget where an alias points; its"
        " history and all plans stay. |",
    ):
        assert line in lines
    compress = next(line for line in lines if line.startswith("| `rankalloc compress "))
    assert compress.startswith(
        "| `rankalloc compress MODEL --out OUT --budget BUDGET ... [--calibration CALIBRATION] "
    )
    assert "[--min-rank [COMPONENT=]RANK ...]" in compress


def test_an_option_s_line_names_the_commands_that_mean_the_same_by_it() -> None:
    lines = commands.options_table().splitlines()
    for line in (
        "| `--heal 0` | `compress`, `apply` | Distil the dense model into the cut one afterwards; 0: closed form only. |",
        "| `--budget BUDGET ...` | `compress`, `plan` | metric=value[@option=value,...]; repeat for several at once. |",
        "| `--bits 8,4` | `frontier`, `plan` | Weight bits to be used, of those that the profile has measured; none: ranks"
        " alone. Default: all. |",
    ):
        assert line in lines
    assert not any("--idempotency-key" in line for line in lines), "of one command alone"


def test_a_route_s_line_is_its_scope_its_parameters_its_statuses_and_its_description() -> None:
    for places, line in (
        (
            ("jobs",),
            "| `GET /v1/jobs` | `read` | `state`, `model`, `limit`, `cursor` | 200 | Jobs, newest first. |",
        ),
        (
            ("plan-aliases",),
            "| `PUT /v1/plan-aliases/{alias}` | `submit` | `If-Match`, `If-None-Match`, body: **`plan`** | 200, 201 | Point an"
            " alias at a plan. 412 where it is not what you believe, 428 where it exists and you did not say. |",
        ),
        (
            ("latency-tables",),
            "| `POST /v1/latency-tables` | `submit` | body: a file, `application/json` | 200, 201 | Store a file that"
            " `rankalloc latency` wrote. Its key is its content's hash. |",
        ),
        (
            ("tokens", "audit"),
            "| `POST /v1/tokens` | `admin` | body: **`name`**, `scope`, `expires` | 201 | Make a token for a member of your"
            " team. The answer has its secret, which nobody can see again. |",
        ),
        (("healthz",), "| `GET /healthz` | - |  | 200 | The process answers. |"),
    ):
        assert line in routes.routes_table(*places).splitlines()


def test_the_methods_of_the_client_are_told() -> None:
    told = dict(re.findall(r"^\| `(client[a-z.]*)` \| (.*) \|$", tables.client_table(), re.MULTILINE))
    assert told["client.shares"] == "`add`, `find`, `undo`"
    assert told["client"] == "`from_environment`, `version`"
    assert told["client.plans"].startswith("`create`, `store_latency_table`, `find`, ")
    assert set(told) == {"client", "client.jobs", "client.profiles", "client.plans", "client.shares"}


@pytest.mark.parametrize("page", pages.TABLES)
def test_tables_of_the_reference_are_made_from_the_code(page: str) -> None:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    assert pages.filled(page, text) == text, "python -m api.reference writes it"


def test_every_body_has_examples_that_are_right(description: dict[str, Any]) -> None:
    models: dict[str, type[BaseModel]] = {
        name: value
        for module in (aliases, notes, plans, requests, teams)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseModel)
    }
    taken = 0
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            schema = content["schema"]
            if schema == {"type": "object"}:
                continue  # a file as it is
            taken += 1
            references = [each["$ref"] for each in [schema, *schema.get("anyOf", [])] if "$ref" in each]
            assert len(references) == 1, f"{method} {path}"
            name = references[0].rpartition("/")[2]
            examples = description["components"]["schemas"][name].get("examples")
            assert examples, f"{name} of {method} {path} has no example"
            for example in examples:
                models[name].model_validate(example)
    assert taken >= 6


@pytest.mark.parametrize("page", sorted(path.name for path in REFERENCE.glob("*.md")))
def test_links_of_the_reference_lead_somewhere(page: str) -> None:
    text = (REFERENCE / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (REFERENCE / target).resolve().exists(), target


def test_the_example_of_the_python_client_runs(tmp_path: Path, example_server: str) -> None:
    """As it is printed."""
    said = _run_example("runs", tmp_path, RANKALLOC_SERVER=example_server)
    assert "layer " in said, "the difference of two plans in words"
    assert (tmp_path / "compressed" / "report.json").is_file()


def test_the_example_without_a_service_runs(tmp_path: Path, settings: Settings, store: Store) -> None:
    profile = measured_profile()
    store.profiles.put("default", profile)
    said = _run_example("runs here", tmp_path, RANKALLOC_HOME=str(settings.home)).split()
    (plan,) = store.plans.find("default", label="candidate").items
    assert said[:2] == [profile.model.reference, plan["digest"]]


def _run_example(marker: str, folder: Path, **variables: str) -> str:
    """What the example behind a marker prints, in a process of its own."""
    text = (REFERENCE / "python-client.md").read_text(encoding="utf-8")
    code = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    done = subprocess.run(
        [sys.executable, "-c", code[1]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
