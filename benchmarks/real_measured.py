"""Plans from gradients beside plans from measured curves, on a model that people know: ``python -m benchmarks.real_measured``.

Both profiles share moments and units in a home of their own (a copy of ``benchmarks.real``'s goes on from what that has). The
measured one takes an hour and more on two cores; a run goes on where it was cut short. What is compared is the one-shot KL of
the whole model to the dense one, on windows of the *evaluation* text.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from allocator.base.statistics import mean_and_stderr
from allocator.plan.effort import EFFORTS
from allocator.plan.planning import plan_from_profile
from benchmarks.profiled import Home, Model
from benchmarks.real import Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Row, Rows

KEEPS = ("0.9", "0.8", "0.6")
WINDOWS = 32
REFERENCE = "fast"


def measure(rows: Rows, run: Run, reference: str, *, keeps: Sequence[str], windows: int) -> None:
    """Add what is missing of a model: for each fraction the plans of both profiles."""
    head = {**run.head, "reference": reference, "windows": windows}
    if all(rows.has(**head, keep=keep) for keep in keeps):
        return
    run.measured.mkdir(parents=True, exist_ok=True)
    with closing(Home(run.case, run.measured)) as home:
        profiles = {effort: home.profile(effort) for effort in (run.effort, reference)}
        model = Model(profiles[run.effort], run.case)
        evaluation = model.evaluation(windows)
        references, tokens = model.references(evaluation), evaluation.numel()
        for keep in keeps:
            if rows.has(**head, keep=keep):
                continue
            plans: Row = {}
            for effort, profile in profiles.items():
                plan = plan_from_profile(profile.document, [f"block_params={keep}"])
                values = model.kl_to(references, model.one_shot(plan.chosen))
                plans[effort] = {"predicted_nats": plan.predicted.loss_nats, "kl_nats": values}
            rows.add([{**head, "keep": keep, "tokens": tokens, "plans": plans}])


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | budget | measured curves | tokens | plan from gradients | plan from measured curves | ratio | difference |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        losses = [row["plans"][effort]["kl_nats"] for effort in (row["effort"], row["reference"])]
        (gradients, _), (measured, _) = map(mean_and_stderr, losses)
        more, stderr = mean_and_stderr([one - other for one, other in zip(*losses, strict=True)])
        lines.append(
            f"| {row['model']} | `block_params={row['keep']}` | `{row['reference']}` | {row['tokens']:,} "
            f"| {gradients:.4f} | {measured:.4f} | {gradients / measured:.3f} | {more:+.4f} ± {stderr:.4f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the table."""
    parser = arguments("benchmarks.real_measured", __doc__)
    parser.add_argument("--kept", nargs="+", default=list(KEEPS), help="fractions of block_params")
    parser.add_argument(
        "--reference", default=REFERENCE, choices=[name for name in EFFORTS if name != "gradient"]
    )
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of the evaluation text")
    options = parser.parse_args(argv)
    rows = rows_of(options, "real-measured")
    for run in runs_of(options):
        measure(rows, run, options.reference, keeps=tuple(options.kept), windows=options.windows)
    show(options, {"real-measured": table(rows)})


if __name__ == "__main__":
    main()
