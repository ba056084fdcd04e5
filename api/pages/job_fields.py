"""The fields of the jobs' form, made from those of a request: what a request takes, the form takes too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from allocator.plan.targets.registry import TARGETS
from allocator.stages.request import CHOICES, DEFAULT_EVALUATIONS, TEXTS, Constraints, Request
from allocator.stages.rules import ONLY_FOR

_LABELS = {
    "effort": "Effort of profiling",
    "solver": "Solver",
    "allocation": "Allocation",
    "target": "Served by",
    "device": "Device",
    "baselines": "Measured beside",
    "plan": "Plan to apply or to ask about",
    "profile": "Profile to transfer from",
    "around": "Plan to measure around",
    "calibration": "Calibration text",
    "evaluation": "Evaluation text",
    "text_column": "Column of the texts' records",
    "samples": "Calibration windows",
    "sequence_length": "Tokens of a window",
    "evaluation_length": "Tokens of a window of the evaluation text",
    "align": "Align ranks",
    "min_rank": "Least ranks",
    "pin": "Pinned ranks",
    "tie": "Tied ranks",
    "bits": "Weight bits",
    "latency_table": "Latency table",
    "refine": "Evaluations for refinement",
    "heal": "Steps of healing",
}
"""Labels that differ from a field's name, in the order of the form; other fields come behind them."""
_HINTS = {
    "calibration": "text:<name>",
    "evaluation": "text:<name>",
    "plan": "digest or alias:<name>",
    "around": "digest or alias:<name>",
    "profile": "key",
    "refine": str(DEFAULT_EVALUATIONS),
}
"""Hints for fields whose description has no example."""
_APART = ("kind", "model", "budgets", "export", "constraints")
"""Fields that the form shows in ways of their own; constraints by kind."""


@dataclass(frozen=True)
class FormField:
    """An option of the jobs' form."""

    name: str
    label: str
    help: str
    """Under the mouse."""
    hint: str
    """An example, in the empty field."""
    choices: tuple[str, ...]
    """The choices; empty: any text."""


def _fields() -> Iterator[FormField]:
    properties = Request.model_json_schema()["properties"] | Constraints.model_json_schema()["properties"]
    for name, schema in properties.items():
        if name in _APART:
            continue
        examples = schema.get("examples", [_HINTS.get(name, "")])
        first = examples[0] if isinstance(examples[0], list) else [examples[0]]
        yield FormField(
            name,
            _LABELS.get(name, name.replace("_", " ").capitalize()),
            _help(name, schema["description"]),
            " ".join(map(str, first)),
            tuple(TARGETS) if name == "target" else CHOICES.get(name, ()) if name in TEXTS else (),
        )


def _help(name: str, description: str) -> str:
    plain = description.replace("`", "")
    kinds = ONLY_FOR.get("constraints" if name in Constraints.model_fields else name)
    if kinds is None or " only" in plain:
        return plain
    *others, last = kinds
    return f"{plain} For {', '.join(others)} or {last} only." if others else f"{plain} For {last} only."


OPTIONS = {
    field.name: field
    for field in sorted(_fields(), key=lambda option: [*_LABELS, option.name].index(option.name))
}
"""All but those that every job has, in the order of the form."""
