"""Reports of jobs that nobody ran, and of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.report.build import build_report
from allocator.report.document import Report

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "documents"
NAMES = ("dense", "uniform_a3", "uniform", "uniform_kind", "plan")


def stored_report(name: str) -> Report:
    """A report that an earlier version wrote."""
    return Report.stored(json.loads((FOLDER / f"report-{name}.json").read_text(encoding="utf-8")))


def report_of(profile: Profile, budgets: list[str]) -> Report:
    plan = plan_from_profile(profile, budgets)
    evaluated = [
        {
            "name": name,
            "evaluation_nll_nats": 3.0 + 0.01 * n,
            "measured_loss_nats": 0.02 * n,
            "measured_stderr_nats": 0.001,
        }
        for n, name in enumerate(NAMES)
    ]
    return build_report(
        job_id="J",
        reference="local:<small>",
        request={},
        plan=plan,
        evaluated=evaluated,
        profile={"key": profile.key, "reused": True, "forward_passes": 0},
        timings_s={"prepare": 1.0},
        files={},
        feedback=[],
        texts={"evaluation": {"window_tokens": 256}},
    )
