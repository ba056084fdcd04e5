"""Predicted against measured losses of random plans of a model that people know: ``python -m benchmarks.real_plans``.

The profile is that of ``benchmarks.real``, whose home it is read from; where there is none yet it is made. The rows are
written plan by plan, and a run goes on behind the last one. With ``--cross`` the sums of curves are also corrected by the cross
terms of the gradients: 1/2 E[(sum_i g_i . d_i)^2] over what the sum of the squares gives, all components i of a plan.
"""

from __future__ import annotations

from contextlib import closing

import torch

from allocator.base.statistics import mean_and_stderr
from allocator.plan.effort import EFFORTS
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.program.problem import predicted_loss
from allocator.profiling.gradients import predicted_losses
from benchmarks import real_tables
from benchmarks.profiled import Home, Model
from benchmarks.profiles import PLANNED, budgeted_plans
from benchmarks.real import Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Rows
from solvers.a3.compress import Part

KEEPS = ("0.9", "0.8")
PLANS = 30
WINDOWS = 8
LEAST_WINDOWS = 4
"""Two halves of two."""


def measure(rows: Rows, run: Run, *, keeps: tuple[str, ...], plans: int, windows: int) -> None:
    """Add what is missing of a model: the planned ranks of each budget, then random ones."""
    head = {**run.head, "windows": windows}

    def measured(keep: str, number: int | str) -> bool:
        return rows.has(**head, keep=keep, plan=number)

    if all(measured(keep, number) for keep in keeps for number in (PLANNED, *range(plans))):
        return
    run.root.mkdir(parents=True, exist_ok=True)
    with closing(Home(run.case, run.home)) as home:
        profile = home.profile(run.effort)
        model = Model(profile, run.case)
        references = model.references(model.evaluation(windows))
        for keep in keeps:
            for row, ranks in budgeted_plans(run.case.name, model, profile, keep, plans):
                if measured(keep, row["plan"]):
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


def cross(rows: Rows, run: Run, *, keeps: tuple[str, ...], windows: int) -> None:
    """Give the rows of a model what cross terms make of their sums, on so many windows that curves are predicted on."""
    head = {**run.head, "windows": windows}
    missing = [
        row for row in rows if head.items() <= row.items() and row["keep"] in keeps and "cross" not in row
    ]
    if not missing:
        return
    with closing(Home(run.case, run.home)) as home:
        profile = home.profile(run.effort)
        model = Model(profile, run.case)
        full: dict[Part, int] = {c: model.geometry.full_rank(c) for c in COMPONENTS}
        ranks_asked: dict[int, dict[Part, list[int]]] = {
            layer: {
                c: sorted({row["ranks"][c][layer] for row in missing} - {full[c]})
                for c in COMPONENTS
                if c not in model.geometry.fixed
            }
            for layer in range(model.geometry.layers)
        }
        first_layer = profile.layers[0]
        totals = [torch.zeros((), dtype=torch.float64)] * len(missing)
        squares = [0.0] * len(missing)
        for layer, components in predicted_losses(
            model.opened,
            model.predicting(min(windows, first_layer.gradient_windows)),
            ranks_asked,
            model.solutions.__getitem__,
            labels=first_layer.effort.labels,
            seed=0,
            dtype=model.dtype,
        ):
            for component, predicted in components.items():
                for number, row in enumerate(missing):
                    rank = row["ranks"][component][layer]
                    if rank != full[component]:
                        products = predicted.projections_rn[
                            ranks_asked[layer][component].index(rank)
                        ].double()
                        totals[number] = totals[number] + products
                        squares[number] += float(products.square().mean())
    for row, total, square in zip(missing, totals, squares, strict=True):
        row["cross"] = float(total.square().mean()) / square
    rows.add([])


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the table."""
    parser = arguments("benchmarks.real_plans", __doc__)
    parser.add_argument("--kept", nargs="+", default=list(KEEPS), help="fractions of block_params")
    parser.add_argument("--plans", type=int, default=PLANS, help="random ones of each fraction")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of the evaluation text")
    parser.add_argument("--cross", action="store_true", help="cross terms of every plan, too")
    options = parser.parse_args(argv)
    if options.windows < LEAST_WINDOWS:
        parser.error(f"--windows {options.windows}: at least {LEAST_WINDOWS}")
    if options.cross and not EFFORTS[options.effort].labels:
        parser.error(f"--cross: an effort without gradients, {options.effort}; --effort gradient has them")
    rows = rows_of(options, "real-plans")
    for run in runs_of(options):
        measure(rows, run, keeps=tuple(options.kept), plans=options.plans, windows=options.windows)
        if options.cross:
            cross(rows, run, keeps=tuple(options.kept), windows=options.windows)
    show(options, {"real-plans": real_tables.plans(rows)})


if __name__ == "__main__":
    main()
