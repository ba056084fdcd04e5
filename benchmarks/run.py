"""``make bench``: run everything, write docs/benchmarks.md and the README's table between their markers."""

from __future__ import annotations

import io
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from allocator.cli.tables import comparison
from benchmarks import ablation, allocation, inference, solver_speed
from benchmarks.peers import run as peers
from benchmarks.rows import Rows

ROOT = Path(__file__).resolve().parents[1]
HEADLINE = ["block_params=0.8", "kv_bytes_per_token=0.75"]
_MARK = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def fill(path: Path, tables: dict[str, str]) -> None:
    """Replace what stands between ``<!-- bench:NAME -->`` and ``<!-- /bench -->``."""
    text = path.read_text(encoding="utf-8")
    filled = _MARK.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}", text)
    path.write_text(filled, encoding="utf-8")


def headline(rows: list[dict[str, Any]]) -> str:
    """The README's table: the bundled models under the demo's two budgets."""
    kept = [
        row
        for row in rows
        if row["model"] in allocation.EXAMPLES
        and row["budgets"] == ["block_params=0.8", "kv_bytes_per_token=0.75"]
    ]
    lines = [
        "| model | | params | KV bytes/token | measured loss | evaluation rise | perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in kept:
        report = row["report"]
        for key, label in (
            ("dense", "dense"),
            ("uniform_a3", "uniform A3"),
            ("uniform", "uniform, a3+"),
            ("uniform_kind", "uniform per kind, a3+"),
            ("plan", "**mixed plan**"),
        ):
            entry = report[key]
            losses = ("0", "0")
            if key != "dense":
                losses = (f"{entry['measured_loss_nats']:.4f}", f"{entry['evaluation_rise_nats']:.4f}")
            lines.append(
                f"| {row['model'] if key == 'dense' else ''} | {label} | {entry['params']:,} "
                f"| {entry['kv_bytes_per_token']:,} | {losses[0]} | {losses[1]} | {entry['evaluation_perplexity']:.2f} |"
            )
    return "\n".join(lines)


def demo_table(rows: list[dict[str, Any]]) -> str:
    """What ``make demo`` prints for the first bundled model."""
    report = next(
        row["report"] for row in rows if row["budgets"] == HEADLINE and row["model"] == allocation.EXAMPLES[0]
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison(report))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    return "```text\n" + "\n".join(line.rstrip() for line in printed.splitlines()) + "\n```"


def reuse(rows: list[dict[str, Any]]) -> str:
    """How much the first budget of a model costs against each further one, and how long the program takes."""
    lines = [
        "| model | profile / solve (time) | forward passes of the first budget | of every further one |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["model"] for row in rows):
        reports = [row["report"] for row in rows if row["model"] == name]
        spent = reports[0]["timings_s"].get("calibrate", 0) + reports[0]["timings_s"].get("profile", 0)
        solve = max(report["certificate"]["time_s"] for report in reports)
        further = {report["profile"]["forward_passes"] for report in reports[1:]}
        passes = reports[0]["profile"]["forward_passes"]
        lines.append(f"| {name} | {spent / solve:,.0f} | {passes} | {', '.join(map(str, sorted(further)))} |")
    return "\n".join(lines)


def quality(work: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of docs/solvers.md; ``rows`` of the allocation give the mixed plans."""
    steps, blocks, cache = (
        Rows(ROOT / "benchmarks" / "results" / f"{name}.json") for name in ("ablation", "peers", "kv-peers")
    )
    ablation.run(steps, work)
    blocks.add([*peers.from_ablation(steps), *peers.plan_rows(rows)])
    peers.run(blocks, cache, work)
    return {
        "ablation": ablation.table(steps),
        "steps": ablation.steps_table(steps),
        "peers": peers.table(blocks),
        "kv": peers.table(cache),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = allocation.run(Path(folder))
        solvers = quality(Path(folder), rows)
    speed = solver_speed.run()
    served = inference.run()
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    raw = {
        "python": platform.python_version(),
        "allocation": rows,
        "solver_speed": speed,
        "inference": served,
    }
    (results / "raw.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
    tables = {
        "allocation": allocation.table(rows),
        "speed": solver_speed.table(speed),
        "inference": inference.table(served),
        "reuse": reuse(rows),
        "headline": headline(rows),
        "demo": demo_table(rows),
        **solvers,
    }
    for path in (ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "solvers.md", ROOT / "README.md"):
        fill(path, tables)
    sys.stdout.write(tables["allocation"] + "\n\n" + tables["speed"] + "\n")


if __name__ == "__main__":
    main()
