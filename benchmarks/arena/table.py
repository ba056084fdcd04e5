"""The arena's tables: rules down, models across; what ours is to the best of the field; where it is behind."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from benchmarks.arena.rules import PLAN, REFINED, RULES
from benchmarks.rows import Row, geometric

_KINDS = ("published", "same problem", "ours")
_STDERRS = 2.0
"""A rule counts as better than ours where it is by more than so many standard errors of the difference."""

Cells = dict[tuple[str, str], Row]
"""(rule, model) -> row."""


def table(rows: Sequence[Row]) -> str:
    """Markdown: one table for each set of budgets, the comparison with the best, and the exceptions."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    dense = {row["model"]: row["dense_nats"] for row in rows}
    names = [f"{model} ({exp(dense[model]):.2f})" for model in models]
    lines = [
        f"| budgets | | rule | {' | '.join(names)} | rise / uniform | KL / uniform |",
        "|---" * (len(models) + 5) + "|",
    ]
    for budgets in sets(rows):
        cells = cells_of(rows, budgets)
        least = {
            m: min(rise(cells[key]) for key in cells if key[1] == m and _measured(cells[key]))
            for m in models
            if any(key[1] == m for key in cells)
        }
        for kind in _KINDS:
            for rule in rules_of(rows, kind):
                values = []
                for model in models:
                    row = cells.get((rule, model))
                    shown = f"{rise(row):.4f}" if row and _measured(row) else "-"
                    values.append(
                        f"**{shown}**" if row and _measured(row) and rise(row) <= least[model] else shown
                    )
                ratios = [over_uniform(cells, rule, models, field) for field in ("rise_nats", "kl_nats")]
                lines.append(
                    f"| {_short(budgets)} | {kind} | {rule} | {' | '.join(values)} | {' | '.join(map(_mean, ratios))} |"
                )
    lines += ["", *_against_best(rows, models), "", *exceptions(rows)]
    return "\n".join(lines)


def sets(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The sets of budgets that rows have, in their order."""
    return list(dict.fromkeys(tuple(row["budgets"]) for row in rows))


def cells_of(rows: Sequence[Row], budgets: Sequence[str]) -> Cells:
    return {(row["rule"], row["model"]): row for row in rows if row["budgets"] == list(budgets)}


def rules_of(rows: Sequence[Row], kind: str) -> list[str]:
    """Names of a kind's rules that rows have, in the arena's order."""
    order = [*(rule.name for rule in RULES if rule.name != PLAN), PLAN, REFINED]
    names = {row["rule"] for row in rows if row["kind"] == kind}
    return [name for name in order if name in names]


def rise(row: Row) -> float:
    return float(row["rise_nats"])


def _measured(row: Row) -> bool:
    return "rise_nats" in row


def over_uniform(cells: Cells, rule: str, models: Sequence[str], field: str) -> list[float]:
    """Losses of a rule over uniform's, on the models where both lose something."""
    return _ratios(cells, rule, "uniform", models, field)


def _ratios(cells: Cells, rule: str, reference: str, models: Sequence[str], field: str) -> list[float]:
    pairs = [(cells.get((rule, model)), cells.get((reference, model))) for model in models]
    values = [(a[field], b[field]) for a, b in pairs if a and b and _measured(a) and _measured(b)]
    return [a / b for a, b in values if a > 0 and b > 0]


def _mean(ratios: Sequence[float]) -> str:
    return f"{geometric(ratios):.2f} ({len(ratios)})" if ratios else "-"


def _short(budgets: Sequence[str]) -> str:
    return " ".join(f"`{budget}`" for budget in budgets)


def _against_best(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    """Ours over the published heuristic that is best in the mean, and over the best one of each model, chosen afterwards."""
    published = rules_of(rows, "published")
    lines = [
        "| budgets | best published rule in the mean (KL) | ours / it: rise | KL | ours / the best of each model: rise | KL |",
        "|---|---|---|---|---|---|",
    ]
    for budgets in sets(rows):
        cells = cells_of(rows, budgets)
        means = {
            rule: geometric(ratios)
            for rule in published
            if (ratios := over_uniform(cells, rule, models, "kl_nats"))
            and len(ratios) == len(over_uniform(cells, "uniform", models, "kl_nats"))
        }
        if not means:
            continue
        best = min(means, key=lambda rule: means[rule])
        shown = [_mean(_ratios(cells, REFINED, best, models, field)) for field in ("rise_nats", "kl_nats")]
        for field in ("rise_nats", "kl_nats"):
            ratios = []
            for model in models:
                published_cells = [cells[rule, model] for rule in published if (rule, model) in cells]
                values = [row[field] for row in published_cells if _measured(row)]
                mine = cells.get((REFINED, model))
                if mine and values and mine[field] > 0 and min(values) > 0:
                    ratios.append(mine[field] / min(values))
            shown.append(_mean(ratios))
        lines.append(f"| {_short(budgets)} | {best} | {' | '.join(shown)} |")
    return lines


def behind(rows: Sequence[Row], field: str) -> list[Row]:
    """Rows of rules that lose less than ours by more than two standard errors of the difference, window by window."""
    better = []
    for row in rows:
        if _measured(row) and row["rule"] not in (REFINED, PLAN):
            mean, stderr = row[f"{field}_behind_nats"], row[f"{field}_behind_stderr_nats"]
            if mean < -_STDERRS * stderr:
                better.append(row)
    return better


def exceptions(rows: Sequence[Row]) -> list[str]:
    """Where some rule is better than ours beyond two standard errors, on evaluation text and on the measure windows."""
    lines = []
    compared = sum(_measured(row) and row["rule"] not in (REFINED, PLAN) for row in rows)
    for field, title in (("rise", "rise on evaluation text"), ("kl", "KL on the measure windows")):
        better = behind(rows, field)
        lines.append(
            f"Better than ours by more than two standard errors of the difference, {title}: {len(better)} of {compared}."
        )
        for row in better:
            mean, stderr = row[f"{field}_behind_nats"], row[f"{field}_behind_stderr_nats"]
            lines.append(
                f"- {row['model']}, {_short(row['budgets'])}: {row['rule']} by {-mean:.4f} ± {stderr:.4f} nats/token"
            )
        lines.append("")
    return lines[:-1]
