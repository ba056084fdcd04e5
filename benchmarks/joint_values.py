"""The cache alone, with values of single heads and with one latent of all of them: a3+ as it is beside a3+joint.

``python -m benchmarks.run joint`` fills docs/solvers.md; ``python -m benchmarks.joint_values MODEL ...`` measures some models
and prints the table.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.allocation import cases, compress
from benchmarks.rows import Rows, geometric, report_of

KEEPS = ("0.75", "0.5", "0.25")
SOLVERS = ("a3+", "a3+joint")
ALIKE = ("--baselines", "none", "--refine", "0")
"""Both are what the program chose: refinement may do more for one than for the other."""


def run(rows: Rows, work: Path, names: Sequence[str] = ()) -> None:
    """All models, or those named, at all sizes of the cache; rows that are there already are left as they are."""
    for case in cases(work):
        if names and case.name not in names:
            continue
        for solver in SOLVERS:
            place = work / solver
            place.mkdir(exist_ok=True)
            for keep in KEEPS:
                if rows.has(model=case.name, keep=keep, solver=solver):
                    continue
                budgets = [f"kv_bytes_per_token={keep}"]
                report = compress(case, budgets, place, "--solver", solver, *ALIKE)
                rows.add([{"model": case.name, "keep": keep, "solver": solver, "report": report}])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: evaluation rise with each solver at each share of the cache kept, and what joint values take of parameters."""
    lines = [
        "| model | cache kept | a3+ | a3+joint | joint / heads | layers joint | predicted | measured "
        "| block params, heads | joint |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for row in rows:
        if row["solver"] != SOLVERS[1]:
            continue
        (beside,) = (
            report_of(other)
            for other in rows
            if (other["model"], other["keep"], other["solver"]) == (row["model"], row["keep"], SOLVERS[0])
        )
        report = report_of(row)
        heads, joint = beside.plan, report.plan
        rises = [plan.evaluation_rise_nats for plan in (heads, joint)]
        ratios.append(max(rises[1], 1e-5) / rises[0])
        dense = report.dense.costs["block_params"]
        shares = [plan.costs["block_params"] / dense for plan in (heads, joint)]
        count = sum(layer.ov_form is not None for layer in joint.ranks)
        lines.append(
            f"| {row['model']} | {float(row['keep']):.0%} | {rises[0]:.4f} | {rises[1]:.4f} | {ratios[-1]:.2f} "
            f"| {count} of {len(joint.ranks)} "
            f"| {joint.predicted_loss_nats:.4f} | {joint.measured_loss_nats:.4f} "
            f"| {shares[0]:.0%} | {shares[1]:.0%} |"
        )
    if ratios:
        lines.append(f"| *geometric mean* | | | | {geometric(ratios):.2f} | | | | | |")
    return "\n".join(lines)


def main(names: Sequence[str]) -> None:
    rows = Rows()
    with tempfile.TemporaryDirectory() as folder:
        run(rows, Path(folder), names)
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
