"""The cost of each engine in nats at equal budgets, on a model that people know: ``python -m benchmarks.targets``.

The profile is that of ``benchmarks.real``, whose home it is read from; where there is none yet it is made. Every entry is a
plan of the integer program under the target (``docs/reference/constraints.md``), proven like any other; no model is read.
"""

from __future__ import annotations

import time
from contextlib import closing

from allocator.base.errors import BudgetInfeasible, InvalidInput
from allocator.plan.documents.profile import Profile
from allocator.plan.planning import plan_from_profile
from allocator.plan.targets.registry import PLAIN, TARGETS
from benchmarks.profiled import Home
from benchmarks.real import arguments, rows_of, runs_of, show
from benchmarks.rows import Row, Rows

BUDGETS = (
    "block_params=0.9",
    "block_params=0.8",
    "block_params=0.6",
    "kv_bytes_per_token=0.75",
    "kv_bytes_per_token=0.5",
    "block_params=0.8 kv_bytes_per_token=0.75",
)


def planned(profile: Profile, budgets: str, target: str) -> Row:
    """The plan's predicted loss and what the engine allocates; None where it holds no plan within the budgets."""
    started = time.perf_counter()
    try:
        plan = plan_from_profile(profile, budgets.split(), constraints={"target": [target]})
    except (BudgetInfeasible, InvalidInput) as error:
        return {"loss_nats": None, "reason": str(error)}
    assert plan.certificate is not None, "the program proves every plan"
    return {
        "loss_nats": plan.predicted.loss_nats,
        "bound_nats": plan.certificate.bound,
        "status": plan.certificate.status,
        "kv_bytes_per_token": plan.costs["kv_bytes_per_token"],
        "seconds": time.perf_counter() - started,
    }


def table(rows: Rows) -> str:
    """One line for every model and budget, one column for every target: nats, and how many times those of transformers."""
    names = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    lines = [
        "| model | budgets | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    for model, budgets in dict.fromkeys((row["model"], row["budgets"]) for row in rows):
        by_target = {row["target"]: row for row in rows if (row["model"], row["budgets"]) == (model, budgets)}
        plain = by_target[PLAIN.name]["loss_nats"]

        def shown(name: str, by_target: dict[str, Row] = by_target, plain: float | None = plain) -> str:
            loss = by_target[name]["loss_nats"] if name in by_target else None
            if loss is None:
                return "none"
            proof = "" if by_target[name]["status"] == "optimal" else " (not proven)"
            return f"{loss:.4f}{proof}" + (f" ({loss / plain:.2f} x)" if plain and name != PLAIN.name else "")

        lines.append(f"| {model} | `{budgets}` | " + " | ".join(map(shown, names)) + " |")
    slowest = max((row["seconds"] for row in rows if row.get("seconds")), default=0.0)
    return "\n".join([*lines, "", f"The slowest of these plans took {slowest:.1f} s with its proof."])


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, plan, fill and print the table."""
    options = arguments("benchmarks.targets", __doc__).parse_args(argv)
    rows = rows_of(options, "targets")
    for run in runs_of(options):
        pairs = [(budgets, target) for budgets in BUDGETS for target in TARGETS]
        missing = [pair for pair in pairs if not rows.has(**run.head, budgets=pair[0], target=pair[1])]
        if not missing:
            continue
        run.root.mkdir(parents=True, exist_ok=True)
        with closing(Home(run.case, run.home)) as home:
            profile = home.profile(run.effort).document
        for budgets, target in missing:
            rows.add(
                [{**run.head, "budgets": budgets, "target": target, **planned(profile, budgets, target)}]
            )
    show(options, {"targets": table(rows)})


if __name__ == "__main__":
    main()
