"""Predicted against measured losses of random plans of a model that people know: ``python -m benchmarks.real_plans``.

The profile is that of ``benchmarks.real``, whose home it is read from; where there is none yet it is made. The rows are
written plan by plan, and a run goes on behind the last one.
"""

from __future__ import annotations

from contextlib import closing

from allocator.base.statistics import mean_and_stderr
from allocator.plan.program.problem import predicted_loss
from benchmarks import real_tables
from benchmarks.profiled import Home, Model
from benchmarks.profiles import PLANNED, budgeted_plans
from benchmarks.real import Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Rows

KEEPS = ("0.9", "0.8")
PLANS = 30
WINDOWS = 8
LEAST_WINDOWS = 4
"""Two halves of two."""


def measure(rows: Rows, run: Run, *, keeps: tuple[str, ...], plans: int, windows: int) -> None:
    """Add what is missing of a model: the planned ranks of each budget, then random ones."""
    head = {**run.head, "windows": windows}

    def there(keep: str, number: int | str) -> bool:
        return rows.has(**head, keep=keep, plan=number)

    if all(there(keep, number) for keep in keeps for number in (PLANNED, *range(plans))):
        return
    run.root.mkdir(parents=True, exist_ok=True)
    with closing(Home(run.case, run.home)) as home:
        profile = home.profile(run.effort)
        model = Model(profile, run.case)
        references = model.references(model.evaluation(windows))
        for keep in keeps:
            for row, ranks in budgeted_plans(run.case.name, model, profile, keep, plans):
                if there(keep, row["plan"]):
                    continue
                values = model.kl_to(references, model.one_shot(ranks))
                loss, stderr = mean_and_stderr(values)
                halves = [mean_and_stderr(values[half::2])[0] for half in (0, 1)]
                rows.add(
                    [
                        {
                            **row,
                            **head,
                            "predicted_nats": predicted_loss(profile.curves, ranks),
                            "one_shot": {"nats": loss, "stderr_nats": stderr, "halves": halves},
                        }
                    ]
                )


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the table."""
    parser = arguments("benchmarks.real_plans", __doc__)
    parser.add_argument("--kept", nargs="+", default=list(KEEPS), help="fractions of block_params")
    parser.add_argument("--plans", type=int, default=PLANS, help="random ones of each fraction")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of the evaluation text")
    chosen = parser.parse_args(argv)
    if chosen.windows < LEAST_WINDOWS:
        parser.error(f"--windows {chosen.windows}: at least {LEAST_WINDOWS}")
    rows = rows_of(chosen, "real-plans")
    for run in runs_of(chosen):
        measure(rows, run, keeps=tuple(chosen.kept), plans=chosen.plans, windows=chosen.windows)
    show(chosen, {"real-plans": real_tables.plans(rows)})


if __name__ == "__main__":
    main()
