"""The loss that healing wins back on models that people know, and its time: ``python -m benchmarks.real_heal``.

``rankalloc compress --heal`` in the home that ``benchmarks.real`` keeps, whose profile it finds there. Closed form and healed
model are of the same report. A row that is there already is left alone.
Both checkpoints are then evaluated on text of other kinds (``benchmarks.drift``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from allocator.base.settings import Settings
from allocator.methods.registry import METHODS
from allocator.report.document import Healing
from allocator.stages.pipeline import CLOSED_FORM
from benchmarks import drift
from benchmarks.real import BUDGET, Run, arguments, compressed, rows_of, runs_of, show
from benchmarks.real_tables import name
from benchmarks.rows import Row, report_of

SOLVER = "a3+latent"
STEPS = 100
TENTHS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def measure(run: Run, budgets: Sequence[str], steps: int) -> Row:
    """Compress and heal once.

    Raises:
        SystemExit: the command failed.
    """
    options = ("--refine", "0", "--baselines", "none", "--heal", str(steps))
    report, out, usage = compressed(run, budgets, *options, part=f"heal-{steps}-")
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
        "| model (dense perplexity) | budgets | steps | tokens seen | minutes | rise, closed form | healed | won back "
        "| KL to dense, closed form | healed | same next token, closed form | healed | step kept "
        "| largest process, MB |",
        "|---" * 14 + "|",
    ]
    for row in rows:
        report = report_of(row)
        heal, plan, healed = report.heal, report.plan, report.healed
        assert heal is not None
        assert healed is not None
        rises = [figures.evaluation_rise_nats for figures in (plan, healed)]
        errors = [figures.evaluation_rise_stderr_nats for figures in (plan, healed)]
        lines.append(
            f"| {name(row)} ({report.dense.evaluation_perplexity:.2f}) | `{' '.join(row['budgets'])}` | {heal.steps} "
            f"| {tokens_of(heal):,} | {heal.seconds / 60:.0f} | {rises[0]:.4f} ± {errors[0]:.4f} "
            f"| **{rises[1]:.4f}** ± {errors[1]:.4f} | {1 - rises[1] / rises[0]:.0%} "
            f"| {plan.measured_loss_nats:.4f} | {healed.measured_loss_nats:.4f} "
            f"| {plan.top1_agreement:.1%} | {healed.top1_agreement:.1%} | {heal.kept_step} "
            f"| {row['process_bytes'] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


def elsewhere(run: Run, job: str) -> Row:
    """Text -> what ``rankalloc evaluate --dense`` says of the job's closed form and of the healed model.

    Empty where the texts are not there.
    """
    shared = run.case.evaluation.parent
    if not (shared / drift.STORIES).is_file():
        return {}
    folder = Settings(home=run.home).artifacts_dir / job
    return {
        text: {
            name: drift.measure(run.case.folder, folder / place, content, run.home)
            for name, place in (("plan", CLOSED_FORM), ("healed", "compact"))
        }
        for text, content in drift.texts(shared).items()
    }


def drifted(rows: Sequence[Row]) -> str:
    """Markdown of other texts."""
    lines = [
        "| model | budgets | text | rise, closed form | healed | KL to dense, closed form | healed |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        for text, evaluations in row.get("elsewhere", {}).items():
            pair = evaluations["plan"], evaluations["healed"]
            cells = [f"{evaluation['evaluation_rise_nats']:.4f}" for evaluation in pair]
            cells += [
                f"{evaluation['kl_nats']:.4f} ± {evaluation['kl_stderr_nats']:.4f}" for evaluation in pair
            ]
            lines.append(f"| {name(row)} | `{' '.join(row['budgets'])}` | {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tokens_of(heal: Healing) -> int:
    """Tokens that steps were made of."""
    return heal.steps * heal.batch_windows * heal.window_tokens


def curve(rows: Sequence[Row]) -> str:
    """Markdown of the KL along the way, in shares of the closed form's."""
    lines = [
        "| model | budgets | " + " | ".join(f"{tenth:.0%}" for tenth in TENTHS) + " |",
        "|---" * (2 + len(TENTHS)) + "|",
    ]
    for row in rows:
        heal = report_of(row).heal
        assert heal is not None
        first_kl = heal.checks[0].kl_nats
        shares = {check.step / heal.steps: check.kl_nats / first_kl for check in heal.checks}
        cells = [
            next((f"{shares[share]:.2f}" for share in shares if abs(share - tenth) < 0.05), "-")
            for tenth in TENTHS
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
    options = parser.parse_args(argv)
    rows = rows_of(options, "real-heal")
    for run in runs_of(options, options.solver):
        for budgets in (text.split() for text in options.budget or [BUDGET]):
            if not rows.has(**run.head, budgets=budgets, steps=options.steps):
                rows.add([measure(run, budgets, options.steps)])
        for row in rows:
            if run.owns(row) and "elsewhere" not in row:
                row["elsewhere"] = elsewhere(run, report_of(row).job)
                rows.save()
    show(
        options, {"real-heal": table(rows), "real-heal-curve": curve(rows), "real-heal-drift": drifted(rows)}
    )


if __name__ == "__main__":
    main()
