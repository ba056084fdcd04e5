"""Registries, documents, settings and the Python client as tables."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from itertools import pairwise
from types import FunctionType

from pydantic.fields import FieldInfo

from allocator.base.document import Document
from allocator.base.settings import PREFIX, Settings
from allocator.methods.registry import DEFAULT_METHOD, METHODS
from allocator.plan.ask.constraints import EXAMPLES
from allocator.plan.metrics.kind import Options
from allocator.plan.metrics.registry import METRICS
from allocator.plan.targets.registry import PLAIN, TARGETS
from allocator.stages.request import Constraints
from api.client import Client
from api.reference.markdown import table


def metrics_table() -> str:
    """Every metric: unit, what it counts, options."""
    defaults = {option.name: option.default for option in fields(Options)}

    def option_text(name: str, needed: tuple[str, ...]) -> str:
        if name in needed:
            return f"`{name}` (required)"
        return f"`{name}`" if defaults[name] is None else f"`{name}` (default {defaults[name]})"

    rows = []
    for kind in METRICS.values():
        options = ", ".join(option_text(option, kind.needed) for option in kind.options)
        rows.append((f"`{kind.name}`", kind.unit, kind.help, options, f"`{kind.example}`"))
    return table(("metric", "unit", "what is counted", "options", "example"), rows)


def methods_table() -> str:
    """Every solution method: what it is, whether layers are refitted, its version."""
    rows = []
    for method in METHODS.values():
        name = f"`{method.name}`" + (" (default)" if method.name == DEFAULT_METHOD else "")
        feedback = "yes" if method.feedback else "no"
        rows.append((name, method.title, feedback, f"`{method.version}`"))
    return table(("`--solver`", "what it is", "error feedback", "version"), rows)


def constraints_table() -> str:
    """Every kind of constraint: how it is written, what it means."""
    rows = []
    for kind, examples in EXAMPLES.items():
        texts = ", ".join(f"`{example}`" for example in re.split(", | or ", examples))
        rows.append((f"`{kind}`", texts, Constraints.model_fields[kind].description or ""))
    return table(("kind", "written", "meaning"), rows)


def targets_table() -> str:
    """Every target: what it is and holds, the checkpoints that it loads."""
    rows = []
    for target in TARGETS.values():
        name = f"`{target.name}`" + (" (default)" if target is PLAIN else "")
        rows.append((name, target.help, ", ".join(target.exports)))
    return table(("target", "what it holds", "checkpoint"), rows)


def client_table() -> str:
    """Every method of the Python client, by the object that has it."""
    groups: dict[str, type] = {}
    with Client("http://127.0.0.1") as client:
        for name, value in vars(client).items():
            if _has_verbs(value):
                groups[f"client.{name}"] = type(value)
    groups["client"] = Client
    rows = ((f"`{name}`", ", ".join(_methods(kind))) for name, kind in groups.items())
    return table(("object", "methods"), rows)


def _has_verbs(value: object) -> bool:
    return type(value).__module__.startswith("api.client.")


def _methods(kind: type) -> list[str]:
    """A class's own methods, in the order of the file."""
    return [
        f"`{name}`"
        for name, value in vars(kind).items()
        if not name.startswith("_") and isinstance(value, (FunctionType, classmethod))
    ]


def fields_table(document: type[Document]) -> str:
    """Every field of a document that says what it is."""
    rows = (
        (f"`{field.title or field.alias or name}`", field.description)
        for name, field in document.model_fields.items()
        if field.description is not None
    )
    return table(("field", "what"), rows)


def settings_table() -> str:
    """Every setting: its variable, its default, what it is."""
    texts = _attribute_docs(Settings)
    rows = (
        (f"`{PREFIX}{name.upper()}`", _default(name, field), texts[name].replace("``", "`"))
        for name, field in Settings.model_fields.items()
    )
    return table(("setting", "default", "what"), rows)


def _attribute_docs(kind: type) -> dict[str, str]:
    """Attribute of a class -> the string below it, in one line: Python itself forgets these."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        attribute.target.id: " ".join(text.value.value.split())
        for attribute, text in pairwise(definition.body)
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }


def _default(name: str, field: FieldInfo) -> str:
    """A setting's default as one writes it; a dash where the text says what nothing means."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list):
        value = ",".join(part for part in value if isinstance(part, str))  # folders are this machine's
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if name.endswith("_bytes") and value and value % size == 0:
            return f"{value // size} {unit}"
    return "-" if value in ("", None) else f"`{value}`"
