"""Tables of ``docs/reference`` that are made from the code: ``python -m api.reference`` writes them into the pages."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

from pydantic.fields import FieldInfo

from allocator.base.document import Document
from allocator.base.settings import PREFIX, Settings
from allocator.methods.registry import DEFAULT_METHOD, METHODS
from allocator.plan.ask.constraints import EXAMPLES
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.plan import Certificate, Plan, PlanBudget
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.kind import Options
from allocator.plan.metrics.registry import METRICS
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.report.document import CalibrationText, EvaluationText, Healing, JobReport, PlanFigures
from allocator.stages.request import Constraints
from allocator.stages.rules import ONLY_FOR
from api.client import Client
from api.schemas.requests import JobRequest

DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"


def metrics_table() -> str:
    """Every metric: unit, what it counts, options."""
    defaults = {option.name: option.default for option in fields(Options)}

    def told(name: str, needed: tuple[str, ...]) -> str:
        if name in needed:
            return f"`{name}` (required)"
        return f"`{name}`" if defaults[name] is None else f"`{name}` (default {defaults[name]})"

    rows = []
    for kind in METRICS.values():
        options = ", ".join(told(option, kind.needed) for option in kind.options)
        rows.append(f"| `{kind.name}` | {kind.unit} | {kind.help} | {options} | `{kind.example}` |")
    return "\n".join(
        ["| metric | unit | what is counted | options | example |", "|---|---|---|---|---|", *rows]
    )


def methods_table() -> str:
    """Every solution method: what it is, whether layers are refitted, its version."""
    rows = []
    for method in METHODS.values():
        name = f"`{method.name}`" + (" (default)" if method.name == DEFAULT_METHOD else "")
        feedback = "yes" if method.feedback else "no"
        rows.append(f"| {name} | {method.title} | {feedback} | `{method.version}` |")
    head = ["| `--solver` | what it is | error feedback | version |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def constraints_table() -> str:
    """Every kind of constraint: how it is written, what it means."""
    rows = []
    for kind, examples in EXAMPLES.items():
        written = ", ".join(f"`{example}`" for example in re.split(", | or ", examples))
        rows.append(f"| `{kind}` | {written} | {Constraints.model_fields[kind].description} |")
    return "\n".join(["| kind | written | meaning |", "|---|---|---|", *rows])


def targets_table() -> str:
    """Every target: what it is and holds, the checkpoints that it loads."""
    rows = []
    for target in TARGETS.values():
        name = f"`{target.name}`" + (" (default)" if target is PLAIN else "")
        rows.append(f"| {name} | {target.help} | {', '.join(target.exports)} |")
    return "\n".join(["| target | what it holds | checkpoint |", "|---|---|---|", *rows])


def client_table() -> str:
    """Every method of the Python client, by the object that has it."""
    with Client("http://127.0.0.1") as client:
        groups = {name: type(value) for name, value in vars(client).items() if _has_verbs(value)}
    rows = [f"| `client.{name}` | {', '.join(_methods(kind))} |" for name, kind in groups.items()]
    return "\n".join(["| | methods |", "|---|---|", *rows, f"| `client` | {', '.join(_methods(Client))} |"])


def _has_verbs(value: object) -> bool:
    return type(value).__module__.startswith("api.client.")


def _methods(kind: type) -> list[str]:
    """Those of its own, in the order of the file."""
    return [
        f"`{name}`"
        for name, value in vars(kind).items()
        if not name.startswith("_") and isinstance(value, (FunctionType, classmethod))
    ]


def fields_table(document: type[Document]) -> str:
    """Every field of a document that says what it is."""
    rows = [
        f"| `{field.title or field.alias or name}` | {field.description} |"
        for name, field in document.model_fields.items()
        if field.description is not None
    ]
    return "\n".join(["| field | what |", "|---|---|", *rows])


def settings_table() -> str:
    """Every setting: its variable, its default, what it is."""
    texts = _attribute_docs(Settings)
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(name, field)} | {texts[name].replace('``', '`')} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what |", "|---|---|---|", *rows])


def _attribute_docs(kind: type) -> dict[str, str]:
    """Attribute of a class -> the string below it, in one line: Python itself forgets these."""
    (found,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(found, ast.ClassDef)
    return {
        attribute.target.id: " ".join(text.value.value.split())
        for attribute, text in pairwise(found.body)
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }


def _default(name: str, field: FieldInfo) -> str:
    """A setting's default as one writes it; a dash where the text says what nothing means."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list):
        value = ",".join(each for each in value if isinstance(each, str))  # folders are this machine's
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if name.endswith("_bytes") and value and value % size == 0:
            return f"{value // size} {unit}"
    return "-" if value in ("", None) else f"`{value}`"


def job_table() -> str:
    """Every field of a job's request: the kinds of jobs that know it, its values, its meaning."""
    schema = JobRequest.model_json_schema()
    fields = sorted(schema["properties"].items(), key=lambda field: field[0] not in schema["required"])
    rows = [
        f"| `{name}` | {', '.join(ONLY_FOR.get(name, ('all',)))} | {_values(field)} | {field['description']} |"
        for name, field in fields
    ]
    return "\n".join(["| field | kinds | values | meaning |", "|---|---|---|---|", *rows])


def _values(schema: dict[str, Any]) -> str:
    """What a field of a JSON schema takes, null apart."""
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list: {_values(schema['items'])}"
    if "maximum" in schema:
        return f"{schema['minimum']:,} to {schema['maximum']:,}"
    return "[object](constraints.md)" if "$ref" in schema else "text"


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "budgets.md": {"metrics": metrics_table},
    "cli.md": {"methods": methods_table},
    "constraints.md": {"kinds": constraints_table, "targets": targets_table},
    "python-client.md": {"client": client_table},
    "rest.md": {"job": job_table},
    "settings.md": {"settings": settings_table},
    "report.md": {
        "report": partial(fields_table, JobReport),
        "figures": partial(fields_table, PlanFigures),
        "calibration": partial(fields_table, CalibrationText),
        "evaluation": partial(fields_table, EvaluationText),
        "heal": partial(fields_table, Healing),
        "plan": partial(fields_table, Plan),
        "budget": partial(fields_table, PlanBudget),
        "certificate": partial(fields_table, Certificate),
    },
    "profile.md": {"profile": partial(fields_table, Profile), "curve": partial(fields_table, Curve)},
}
"""Page -> marker -> what stands between ``<!-- marker -->`` and ``<!-- /marker -->``."""


def filled(page: str, text: str) -> str:
    """The page's text with its tables as the code has them.

    Raises:
        ValueError: a marker is missing.
    """
    for name, table in TABLES[page].items():
        head, tail = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        if head not in text or tail not in text:
            raise ValueError(f"{page}: no place for the table {name!r}")
        text = text[: text.index(head) + len(head)] + table() + text[text.index(tail) :]
    return text


def main() -> None:
    """Write all tables."""
    for page in TABLES:
        path = DOCS / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
