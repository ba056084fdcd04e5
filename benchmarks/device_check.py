"""The whole job on a GPU against the same on the CPU: ``python -m benchmarks.device_check [--model NAME]``.

Two stores of their own, the same windows. What is compared: the dense model's likelihood, predicted losses of the uniform plan
(the same ranks on both), the chosen plan's losses, and what the uniform baselines lose. Exit status 1 where one is off by more
than it may. ``--against cpu`` checks the check.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from allocator.report.document import Report
from benchmarks.allocation import Case, cases, compress

BUDGETS = ["block_params=0.8", "kv_bytes_per_token=0.75"]
TOLERANCES = {
    ("dense", "evaluation_nll_nats"): 1e-4,
    ("uniform", "predicted_loss_nats"): 0.1,
    ("uniform", "evaluation_rise_nats"): 0.05,
    ("uniform_a3", "evaluation_rise_nats"): 0.02,
    ("plan", "predicted_loss_nats"): 0.1,
    ("plan", "measured_loss_nats"): 0.1,
}
"""(row, figure) -> how far it may be off, as a share. Labels are drawn by the device's own generator, so predictions differ as
two seeds do; ranks may follow.
"""
_WINDOWS = ("--samples", "192", "--sequence-length", "128", "--evaluation-length", "128")
"""Named, since the usual ones differ by device; the examples' contexts are this long or longer."""


def compared(cpu: Report, device: Report) -> list[tuple[str, float, float, float, bool]]:
    """(figure, on the CPU, on the device, difference as a share, within its tolerance)."""
    rows = []
    for (row, name), tolerance in TOLERANCES.items():
        mine, theirs = (float(getattr(getattr(report, row), name)) for report in (cpu, device))
        share = abs(mine - theirs) / max(abs(mine), 1e-12)
        rows.append((f"{row} {name}", mine, theirs, share, share <= tolerance))
    return rows


def check(case: Case, device: str) -> bool:
    """Run both, print the table; whether every figure is within its tolerance."""
    reports = {}
    for name in ("cpu", device):
        with tempfile.TemporaryDirectory() as work:
            document = compress(case, BUDGETS, Path(work), "--device", name, *_WINDOWS)
            reports[name] = Report.stored(document)
    rows = compared(reports["cpu"], reports[device])
    sys.stdout.write(f"| {case.name} | cpu | {device} | off by | allowed |\n|---|---|---|---|---|\n")
    for (figure, mine, theirs, share, fine), tolerance in zip(rows, TOLERANCES.values(), strict=True):
        mark = "" if fine else " **too far**"
        sys.stdout.write(f"| {figure} | {mine:.5f} | {theirs:.5f} | {share:.2%}{mark} | {tolerance:.2%} |\n")
    seconds = {name: report.timings_s for name, report in reports.items()}
    for stage, on_cpu in seconds["cpu"].items():
        on_device = seconds[device].get(stage, 0.0)
        sys.stdout.write(f"| seconds, {stage} | {on_cpu:.1f} | {on_device:.1f} | | |\n")
    return all(fine for *_, fine in rows)


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 where every model is within its tolerances."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device_check", description=__doc__)
    parser.add_argument("--model", default="pylm-llama", help="a name of benchmarks.allocation.cases")
    parser.add_argument("--against", default="cuda", choices=["cuda", "cpu"], help="cpu: the check itself")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        matches = [case for case in cases(Path(work)) if case.name == options.model]
        if not matches:
            raise SystemExit(f"--model: {options.model!r} is none of the models here")
        return 0 if check(matches[0], options.against) else 1


if __name__ == "__main__":
    sys.exit(main())
