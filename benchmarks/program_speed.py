"""How long the integer program takes: sizes growing, random but realistic programs, processor seconds of one core.

``python -m benchmarks.program_speed`` prints the table; ``benchmarks.run program`` fills docs/benchmarks/results.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from allocator.plan.program.solve import Program, solve
from tests.support.program_instances import instance


@dataclass(frozen=True)
class Size:
    """Components x options x budgets, how many programs of it, and the seconds allowed (median, worst)."""

    components: int
    options: int
    budgets: int
    programs: int
    median_s: float
    worst_s: float

    @property
    def name(self) -> str:
        return f"{self.components:,} x {self.options} x {self.budgets}"


SIZES = (
    Size(96, 32, 2, 20, 0.15, 0.15),
    Size(96, 32, 4, 20, 1, 5),
    Size(240, 64, 2, 20, 1, 5),
    Size(240, 64, 4, 50, 1, 5),
    Size(480, 64, 4, 10, 5, 10),
    Size(1000, 64, 2, 10, 10, 10),
    Size(1000, 128, 4, 5, 10, 10),
)
FRONTIER = Size(96, 32, 2, 1, 15, 15)
POINTS = 200
_PROVEN = 1e-4


def solves(size: Size) -> dict[str, Any]:
    """Solve every program of a size, from lists of numbers to the proven plan."""
    times, gaps, proofs = [], [], []
    for seed in range(size.programs):
        groups, rows = instance(seed, size.components, size.options, size.budgets)
        started = time.process_time()
        solution = solve(groups, rows)
        times.append(time.process_time() - started)
        gaps.append(solution.gap)
        proofs.append(solution.proof)
    return _row(size, size.name, times, gaps, proofs)


def frontier(size: Size) -> dict[str, Any]:
    """All points of a curve over the second budget, each proven."""
    groups, rows = instance(0, size.components, size.options, size.budgets)
    low, high = (rows[1].constant + sum(group.costs[1][end] for group in groups) for end in (0, -1))
    started = time.process_time()
    program = Program(groups, size.budgets)
    gaps, known, proofs = [], None, []
    for point in range(POINTS):
        limit = low + (high - low) * point // (POINTS - 1)
        solution = program.solve([rows[0], replace(rows[1], limit=limit)], known=known)
        known = solution.choice
        gaps.append(solution.gap)
        proofs.append(solution.proof)
    times = [time.process_time() - started]
    return _row(size, f"{size.name}, {POINTS} points", times, gaps, proofs)


def _row(
    size: Size, name: str, times: list[float], gaps: list[float], proofs: Sequence[str]
) -> dict[str, Any]:
    return {
        "name": name,
        "programs": len(gaps),
        "median_s": statistics.median(times),
        "worst_s": max(times),
        "worst_gap": max(gaps),
        "proofs": {proof: proofs.count(proof) for proof in sorted(set(proofs))},
        "targets_s": [size.median_s, size.worst_s],
        "within": statistics.median(times) <= size.median_s
        and max(times) <= size.worst_s
        and max(gaps) <= _PROVEN,
    }


def run() -> list[dict[str, Any]]:
    """All sizes, then the frontier."""
    rows = []
    for measure, size in [*((solves, size) for size in SIZES), (frontier, FRONTIER)]:
        row = measure(size)
        sys.stderr.write(f"{row}\n")
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Times as multiples of the smallest size's median: seconds are one machine's."""
    unit = rows[0]["median_s"]
    lines = [
        "| components x options x budgets | plans | median | worst | worst gap | proved by | target: median / worst | within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        proofs = ", ".join(f"{name} {count}" for name, count in row["proofs"].items())
        allowed = " / ".join(f"{seconds:g} s" for seconds in row["targets_s"])
        lines.append(
            f"| {row['name']} | {row['programs']} | {row['median_s'] / unit:.1f} | {row['worst_s'] / unit:.1f} "
            f"| {row['worst_gap']:.0e} | {proofs} | {allowed} | {'yes' if row['within'] else 'no'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(run()) + "\n")
