"""``make bench``: run everything and fill the tables of docs and README between their markers.

``python -m benchmarks.run PART ...`` runs single parts: allocation, kv, solvers, tried, speed, inference, profiles, program,
arena, limits, service, bits, joint.
"""

from __future__ import annotations

import io
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from allocator.report.document import CutFigures
from api.cli.tables import comparison
from benchmarks import (
    ablation,
    allocation,
    composition,
    inference,
    joint_values,
    kv_plans,
    limits,
    profile_tables,
    profiles,
    program_speed,
    rank_bits,
    service,
    solver_speed,
    tried,
)
from benchmarks.arena import run as arena
from benchmarks.arena.picture import picture
from benchmarks.arena.table import table as arena_table
from benchmarks.peers import run as peers
from benchmarks.rows import Rows, report_of
from tests.support.pages import fill

ROOT = Path(__file__).resolve().parents[1]
HEADLINE = ["block_params=0.8", "kv_bytes_per_token=0.75"]


def _rows(name: str, *, resume: bool = False) -> Rows:
    """The rows of a part, in a file of their own that is written as they come."""
    return Rows(ROOT / "benchmarks" / "results" / f"{name}.json", resume=resume)


def headline(rows: list[dict[str, Any]]) -> str:
    """The bundled models under the demo's two budgets, with what they cost."""
    bundled = [row for row in rows if row["model"] in allocation.EXAMPLES and row["budgets"] == HEADLINE]
    lines = [
        "| model | | params | KV bytes/token | measured loss | evaluation rise | perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in bundled:
        for model, figures in report_of(row).shown:
            label, losses = f"**{model.title}**" if model.ours else model.title, ("0", "0")
            if isinstance(figures, CutFigures):
                losses = (f"{figures.measured_loss_nats:.4f}", f"{figures.evaluation_rise_nats:.4f}")
            lines.append(
                f"| {'' if isinstance(figures, CutFigures) else row['model']} | {label} | {figures.costs['params']:,} "
                f"| {figures.costs['kv_bytes_per_token']:,} | {losses[0]} | {losses[1]} "
                f"| {figures.evaluation_perplexity:.2f} |"
            )
    return "\n".join(lines)


def demo_table(rows: list[dict[str, Any]]) -> str:
    """The table that ``make demo`` prints for the first bundled model."""
    report = next(
        report_of(row)
        for row in rows
        if row["budgets"] == HEADLINE and row["model"] == allocation.EXAMPLES[0]
    )
    printed = io.StringIO()
    Console(file=printed, width=80).print(comparison(report))
    return "```text\n" + "\n".join(line.rstrip() for line in printed.getvalue().splitlines()) + "\n```"


def reuse(rows: list[dict[str, Any]]) -> str:
    """How much the first budget of a model costs against each further one, and how long the program takes."""
    lines = [
        "| model | profile / solve (time) | forward passes of the first budget | of every further one |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        first, *later = reports = [report_of(row) for row in rows if row["model"] == name]
        spent = first.timings_s.get("calibrate", 0) + first.timings_s.get("profile", 0)
        solve = max(allocation.certificate(report).time_s for report in reports)
        further = {report.profile.forward_passes for report in later}
        passes = first.profile.forward_passes
        lines.append(f"| {name} | {spent / solve:,.0f} | {passes} | {', '.join(map(str, sorted(further)))} |")
    return "\n".join(lines)


def quality(work: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of docs/solvers.md; ``rows`` of the allocation give the mixed plans."""
    steps, blocks, cache = (_rows(name) for name in ("ablation", "peers", "kv-peers"))
    ablation.run(steps, work)
    blocks.add([*peers.from_ablation(steps), *peers.plan_rows(rows)])
    peers.run(blocks, cache, work)
    return {
        "ablation": ablation.table(steps),
        "steps": ablation.steps_table(steps),
        "peers": peers.table(blocks),
        "kv": peers.table(cache),
    }


def allocation_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    """Mixed against uniform ranks, and what the README shows of them."""
    rows = _rows("allocation")
    allocation.run(rows, work)
    return {
        "allocation": allocation.table(rows),
        "reuse": reuse(rows),
        "headline": headline(rows),
        "demo": demo_table(rows),
    }


def kv_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = _rows("kv-plans")
    kv_plans.run(rows, work)
    return {"kv-plans": kv_plans.table(rows)}


def solvers_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    return quality(work, _rows("allocation", resume=True))


def tried_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = _rows("tried")
    tried.run(rows, work)
    return {"tried": tried.table(rows)}


def speed_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = raw["solver_speed"] = solver_speed.run()
    return {"speed": solver_speed.table(rows)}


def inference_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = raw["inference"] = inference.run()
    return {"inference": inference.table(rows)}


def profiles_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = _rows("profiles")
    profiles.run(rows, work)
    return profile_tables.tables(rows)


def program_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = raw["program"] = program_speed.run()
    return {"program": program_speed.table(rows)}


def arena_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    """Every rule of the field on the same curves; its rows stay in a file of their own, its picture beside the page."""
    rows = _rows("arena")
    arena.run(rows, work, allocation.cases(work))
    (ROOT / "docs" / "arena.svg").write_text(picture(rows), encoding="utf-8")
    return {"arena": arena_table(rows)}


def limits_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = raw["limits"] = limits.run()
    return {"limits": limits.table(rows)}


def service_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    """The served API under load, beside a bare application on the same machine."""
    rows = raw["service"] = service.run()
    return {"service": service.table(rows)}


def bits_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = _rows("rank-bits")
    rank_bits.run(rows, work)
    return {"bits": rank_bits.table(rows)}


def joint_part(work: Path, raw: dict[str, Any]) -> dict[str, str]:
    rows = _rows("joint-values")
    joint_values.run(rows, work)
    return {"joint": joint_values.table(rows)}


PARTS = {
    "allocation": allocation_part,
    "kv": kv_part,
    "solvers": solvers_part,
    "tried": tried_part,
    "speed": speed_part,
    "inference": inference_part,
    "profiles": profiles_part,
    "program": program_part,
    "arena": arena_part,
    "limits": limits_part,
    "service": service_part,
    "bits": bits_part,
    "joint": joint_part,
}


def main(names: Sequence[str]) -> None:
    """Run the named parts, or all; raw figures of other parts stay in benchmarks/results/raw.json."""
    unknown = sorted(set(names) - PARTS.keys())
    if unknown:
        raise SystemExit(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    path = ROOT / "benchmarks" / "results" / "raw.json"
    path.parent.mkdir(exist_ok=True)
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            tables = PARTS[name](Path(folder), raw)
        raw["python"] = platform.python_version()
        path.write_text(json.dumps(raw, indent=1), encoding="utf-8")
        for page in ("docs/benchmarks/results.md", "docs/solvers.md", "docs/arena.md", "README.md"):
            fill(ROOT / page, tables)
        sys.stdout.write("\n\n".join(tables.values()) + "\n")
    if not names:
        composition.main()


if __name__ == "__main__":
    main(sys.argv[1:])
