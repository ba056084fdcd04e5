"""The table of the cache alone with joint values."""

from __future__ import annotations

from typing import Any

from benchmarks.joint_values import table
from tests.support.reports import stored_report


def row(solver: str, rise: float, params: int, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    report = stored_report("kept")
    plan = report.plan.replaced(
        evaluation_rise_nats=rise,
        predicted_loss_nats=0.02,
        measured_loss_nats=0.03,
        costs={"block_params": params},
        ranks=[{"layer": layer, "qk": 8, "mlp": 8, **row} for layer, row in enumerate(ranks)],
    )
    report = report.replaced(plan=plan, dense=report.dense.replaced(costs={"block_params": 1000}))
    return {"model": "small", "keep": "0.5", "solver": solver, "report": report.document}


def test_solvers_stand_side_by_side_and_what_they_take_too() -> None:
    heads = row("a3+", 0.4, 900, [{"ov": 4}, {"ov": 8}])
    joint = row("a3+joint", 0.1, 950, [{"ov": 4, "ov_form": "joint"}, {"ov": 8}])
    lines = table([heads, joint]).splitlines()
    assert lines[2] == "| small | 50% | 0.4000 | 0.1000 | 0.25 | 1 of 2 | 0.0200 | 0.0300 | 90% | 95% |"
    assert lines[3] == "| *geometric mean* | | | | 0.25 | | | | | |"
    # A run that was cut short between the two.
    assert len(table([heads]).splitlines()) == 2
