"""What healing wins back on models that people know, and in what time: ``python -m benchmarks.real_heal``.

``rankalloc compress --heal`` in the home that ``benchmarks.real`` keeps, whose profile it finds there. Closed form and healed
model are of the same report. A row that is there already is left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from allocator.methods.registry import METHODS
from benchmarks.allocation import ROOT, command, environment
from benchmarks.real import BUDGET, Run, arguments, rows_of, runs_of, show
from benchmarks.real_tables import name
from benchmarks.rows import Row
from benchmarks.usage import watched

SOLVER = "a3+latent"
STEPS = 100
TENTHS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def measure(run: Run, budgets: Sequence[str], steps: int) -> Row:
    """Compress and heal once.

    Raises:
        SystemExit: the command failed.
    """
    out = run.file(f"heal-{steps}-out", budgets)
    shutil.rmtree(out, ignore_errors=True)
    run.root.mkdir(parents=True, exist_ok=True)
    options = ("--effort", run.effort, "--solver", run.solver, "--refine", "0", "--baselines", "none")
    status, usage = watched(
        command(run.case, list(budgets), out, *options, "--heal", str(steps)),
        env=environment(run.home),
        cwd=ROOT,
        folder=run.home,
        seen=run.file(f"heal-{steps}-usage.json", budgets),
    )
    if status:
        raise SystemExit(f"{run.case.name} {' '.join(budgets)} --heal {steps}: exit {status}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    shutil.rmtree(out)
    return {
        **run.head,
        "budgets": list(budgets),
        "steps": steps,
        "process_bytes": usage.process_bytes,
        "report": report,
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| model (dense perplexity) | budgets | steps | tokens seen | minutes | closed form | healed | won back | difference "
        "| KL on held-out windows, before, after | step kept |",
        "|---" * 11 + "|",
    ]
    for row in rows:
        report, heal = row["report"], row["report"]["heal"]
        plan, healed = report["plan"], report["healed"]
        before, after = plan["evaluation_rise_nats"], healed["evaluation_rise_nats"]
        lines.append(
            f"| {name(row)} ({report['dense']['evaluation_perplexity']:.2f}) | `{' '.join(row['budgets'])}` | {heal['steps']} "
            f"| {seen(heal):,} | {heal['seconds'] / 60:.0f} | {before:.4f} | **{after:.4f}** | {1 - after / before:.0%} "
            f"| {after - before:+.4f} | {heal['first_kl_nats']:.4f}, {heal['last_kl_nats']:.4f} | {heal['kept_step']} |"
        )
    return "\n".join(lines)


def seen(heal: dict[str, Any]) -> int:
    """Tokens that steps were made of."""
    tokens: int = heal["steps"] * heal["batch_windows"] * heal["window_tokens"]
    return tokens


def curve(rows: Sequence[Row]) -> str:
    """Markdown of the KL along the way, in shares of the closed form's."""
    lines = [
        "| model | budgets | " + " | ".join(f"{tenth:.0%}" for tenth in TENTHS) + " |",
        "|---" * (2 + len(TENTHS)) + "|",
    ]
    for row in rows:
        heal = row["report"]["heal"]
        first = heal["checks"][0]["kl_nats"]
        shares = {check["step"] / heal["steps"]: check["kl_nats"] / first for check in heal["checks"]}
        cells = [
            next((f"{shares[at]:.2f}" for at in shares if abs(at - tenth) < 0.05), "-") for tenth in TENTHS
        ]
        lines.append(f"| {name(row)} | `{' '.join(row['budgets'])}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the tables."""
    parser = arguments("benchmarks.real_heal", __doc__)
    parser.add_argument(
        "--budget", action="append", help=f"default {BUDGET}; repeatable, several of one plan in quotes"
    )
    parser.add_argument("--solver", default=SOLVER, choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=STEPS, help="of 2,048 tokens each")
    chosen = parser.parse_args(argv)
    rows = rows_of(chosen, "real-heal")
    for run in runs_of(chosen, chosen.solver):
        for budgets in (text.split() for text in chosen.budget or [BUDGET]):
            if not rows.has(**run.head, budgets=budgets, steps=chosen.steps):
                rows.add([measure(run, budgets, chosen.steps)])
    show(chosen, {"real-heal": table(rows), "real-heal-curve": curve(rows)})


if __name__ == "__main__":
    main()
