"""The pages of ``docs/reference`` and the tables in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from allocator.jobs.document import EventDocument, JobDocument
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.difference import PlanDiff, RankChange
from allocator.plan.documents.explanation import ExplainedComponent, Explanation, NextStep
from allocator.plan.documents.plan import Certificate, Plan, PlanBudget
from allocator.plan.documents.profile import Profile
from allocator.plan.documents.sensitivity import InterpolationError, Removal, Sensitivity, WholeModel
from allocator.report.document import CalibrationText, EvaluationText, Healing, PlanFigures, Report
from api.reference.commands import commands_table, options_table
from api.reference.routes import job_table, plan_table, routes_table
from api.reference.tables import (
    client_table,
    constraints_table,
    fields_table,
    methods_table,
    metrics_table,
    settings_table,
    targets_table,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"

TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "budgets.md": {"metrics": metrics_table},
    "cli.md": {"commands": commands_table, "options": options_table, "methods": methods_table},
    "constraints.md": {"kinds": constraints_table, "targets": targets_table},
    "python-client.md": {"client": client_table},
    "rest.md": {
        "jobs": partial(routes_table, "jobs"),
        "profiles": partial(routes_table, "profiles"),
        "plans": partial(routes_table, "plans"),
        "latency tables": partial(routes_table, "latency-tables"),
        "aliases": partial(routes_table, "plan-aliases"),
        "teams": partial(routes_table, "teams", "tokens", "whoami", "shares", "audit"),
        "service": partial(routes_table, "healthz", "readyz", "metrics", "version"),
        "job": job_table,
        "job document": partial(fields_table, JobDocument),
        "event": partial(fields_table, EventDocument),
        "plan": plan_table,
    },
    "settings.md": {"settings": settings_table},
    "report.md": {
        "report": partial(fields_table, Report),
        "figures": partial(fields_table, PlanFigures),
        "calibration": partial(fields_table, CalibrationText),
        "evaluation": partial(fields_table, EvaluationText),
        "heal": partial(fields_table, Healing),
        "plan": partial(fields_table, Plan),
        "budget": partial(fields_table, PlanBudget),
        "certificate": partial(fields_table, Certificate),
        "explanation": partial(fields_table, Explanation),
        "explained component": partial(fields_table, ExplainedComponent),
        "next step": partial(fields_table, NextStep),
        "difference": partial(fields_table, PlanDiff),
        "rank change": partial(fields_table, RankChange),
    },
    "profile.md": {
        "profile": partial(fields_table, Profile),
        "curve": partial(fields_table, Curve),
        "sensitivity": partial(fields_table, Sensitivity),
        "removal": partial(fields_table, Removal),
        "whole model": partial(fields_table, WholeModel),
        "interpolation error": partial(fields_table, InterpolationError),
    },
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
