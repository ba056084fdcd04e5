"""Markdown of ``benchmarks.profiles``: each table, and below it where a target was missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from allocator.plan.model.geometry import COMPONENTS
from benchmarks.rows import Row

LEAST_NATS = 1e-4
"""Points that lose less are also left out: no plan turns on them."""
LEAST_SPEARMAN = 0.95
TARGET_KEEPS = ("0.9", "0.8")
MOST_PASSES = {"fast": 3.0, "standard": 12.0}
"""Forward-equivalents per layer."""
MOST_LOST = 0.1
"""Share of the advantage over uniform ranks that fast may lose."""


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Marker -> Markdown."""
    return {
        "profiles-interpolation": interpolation(rows),
        "profiles-additivity": additivity(rows),
        "profiles-effort": effort(rows),
        "profiles-outcome": outcome(rows),
    }


def _rows_of(rows: Iterable[Row], kind: str, **values: Any) -> list[Row]:
    return [
        row
        for row in rows
        if row["kind"] == kind and all(row[name] == value for name, value in values.items())
    ]


def _models(rows: Iterable[Row], kind: str) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows if row["kind"] == kind))


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _missed(title: str, places: Sequence[str]) -> list[str]:
    return ["", f"{title}: {'; '.join(places) or 'nowhere'}."]


def _errors(pairs: Iterable[tuple[float, float]]) -> np.ndarray:
    return np.array([abs(predicted - measured) / max(measured, 1e-12) for predicted, measured in pairs])


def _quantiles(errors: np.ndarray) -> str:
    if not len(errors):
        return "0 | - | -"
    return f"{len(errors)} | {np.median(errors):.1%} | {np.quantile(errors, 0.95):.1%}"


def interpolation(rows: Sequence[Row]) -> str:
    """Relative errors at unmeasured ranks, and the worst points of each model among those that matter."""
    bound = f"{LEAST_NATS:g}"
    columns = ("model", "component", "points", "median", "95 %", f"from {bound} nats", "median", "95 %")
    lines = _header(*columns, "left out, from there", "median", "95 %")
    worst = []
    for model in _models(rows, "own"):
        for c in COMPONENTS:
            points = [
                (row["predicted_nats"], row["measured_nats"])
                for row in _rows_of(rows, "point", model=model, component=c)
            ]
            (own,) = _rows_of(rows, "own", model=model, component=c)
            large = [[pair for pair in pairs if pair[1] >= LEAST_NATS] for pairs in (points, own["pairs"])]
            cells = " | ".join(_quantiles(_errors(pairs)) for pairs in (points, *large))
            lines.append(f"| {model} | {c} | {cells} |")
        worst.append(_worst(model, _rows_of(rows, "point", model=model)))
    return "\n".join([*lines, "", f"Worst points from {bound} nats:", "", *worst])


def _worst(model: str, points: Sequence[Row]) -> str:
    def error(row: Row) -> float:
        return float(_errors([(row["predicted_nats"], row["measured_nats"])])[0])

    worst = sorted((row for row in points if row["measured_nats"] >= LEAST_NATS), key=error, reverse=True)[:3]
    shown = [
        f"layer {row['layer']} {row['component']} at {row['rank']}, predicted {row['predicted_nats']:.3g},"
        f" measured {row['measured_nats']:.3g} ± {row['stderr_nats']:.1g}"
        for row in worst
    ]
    return f"- {model}: {'; '.join(shown) or 'every rank was measured'}"


def spearman(some: Sequence[float], others: Sequence[float]) -> float:
    """Rank correlation."""
    return float(spearmanr(some, others).statistic)


def additivity(rows: Sequence[Row]) -> str:
    """Rank correlations and ratios over random plans, and the planned one."""
    lines = _header(
        *("model", "removed", "predicted, 10th to 90th", "Spearman one-shot", "delivered", "halves"),
        *("measured / predicted one-shot", "delivered", "plan: predicted", "one-shot", "delivered"),
    )
    missed = []
    for model in _models(rows, "plan"):
        for keep in dict.fromkeys(row["keep"] for row in _rows_of(rows, "plan", model=model)):
            plan_rows = _rows_of(rows, "plan", model=model, keep=keep)
            plans = [row for row in plan_rows if isinstance(row["plan"], int)]
            predicted = [row["predicted_nats"] for row in plans]
            removed = f"{1 - float(keep):.0%}"
            low, high = np.quantile(predicted, [0.1, 0.9])
            spearmans, ratios = [], []
            for name in ("one_shot", "delivered"):
                measured = [row[name]["nats"] for row in plans]
                correlation = spearman(predicted, measured)
                failed = keep in TARGET_KEEPS and not correlation >= LEAST_SPEARMAN
                spearmans.append(f"**{correlation:.3f}**" if failed else f"{correlation:.3f}")
                ratios.append(f"{np.median(np.array(measured) / np.array(predicted)):.2f}")
                if failed:
                    missed.append(f"{model} at {removed} {name.replace('_', '-')} ({correlation:.3f})")
            halves = spearman(*zip(*(row["one_shot"]["halves"] for row in plans), strict=True))
            lines.append(
                f"| {model} | {removed} | {low:.3f} to {high:.3f} | {' | '.join(spearmans)} | {halves:.3f} "
                f"| {' | '.join(ratios)} | {_planned(plan_rows)} |"
            )
    return "\n".join([*lines, *_missed(f"Below {LEAST_SPEARMAN} at 10 or 20 %", missed)])


def _planned(plans: Sequence[Row]) -> str:
    (row,) = [row for row in plans if not isinstance(row["plan"], int)]
    values = (row["predicted_nats"], row["one_shot"]["nats"], row["delivered"]["nats"])
    return " | ".join(f"{value:.4f}" for value in values)


def effort(rows: Sequence[Row]) -> str:
    """Cuts, tokens, stated and actual cost of every effort, of a second job and of extending the one before."""
    lines = _header(
        *("model", "effort", "cuts per layer", "tokens per cut", "mean", "stated passes per layer", "actual"),
        *("second job", "after the effort before / alone"),
    )
    missed = []
    for row in _rows_of(rows, "effort"):
        passes, tokens = row["forward_equivalents_per_layer"], row["measure_tokens"]
        mean = row["measured_tokens"] / row["layers"] / row["cuts"]
        if row["actual_per_layer"] > MOST_PASSES.get(row["effort"], float("inf")):
            missed.append(f"{row['model']} {row['effort']} ({row['actual_per_layer']:.1f})")
        lines.append(
            f"| {row['model']} | {row['effort']} | {row['cuts']} | {tokens[0]:,} to {tokens[1]:,} | {mean:,.0f} "
            f"| {passes[0]:.2f} to {passes[1]:.2f} | {round(row['actual_per_layer'], 3):.2f} "
            f"| {row['second_job_passes']} | {row['extending'] / row['alone']:.2f} |"
        )
    bounds = ", ".join(f"{name} {limit:g}" for name, limit in MOST_PASSES.items())
    return "\n".join([*lines, *_missed(f"Over the most passes per layer ({bounds})", missed)])


def outcome(rows: Sequence[Row]) -> str:
    """Delivered models by the plans of each effort, and what share of thorough's advantage over uniform is lost."""
    lines = _header(
        *("model", "kept", "KL uniform", "KL thorough", "lost by gradient", "by fast", "by standard"),
        *("rise uniform", "rise thorough", "lost by gradient", "by fast", "by standard"),
    )
    missed = []
    for model in _models(rows, "outcome"):
        for keep in dict.fromkeys(row["keep"] for row in _rows_of(rows, "outcome", model=model)):
            outcomes = {row["allocation"]: row for row in _rows_of(rows, "outcome", model=model, keep=keep)}
            cells = []
            for name, label in (("kl_nats", "KL"), ("rise_nats", "rise")):
                values = {allocation: row[name] for allocation, row in outcomes.items()}
                cells += [f"{values[allocation]:.4f}" for allocation in ("uniform", "thorough")]
                for effort_name in ("gradient", "fast", "standard"):
                    share = lost(values, effort_name)
                    failed = effort_name in ("gradient", "fast") and share is not None and share > MOST_LOST
                    shown = "no advantage" if share is None else f"{share:.1%}"
                    cells.append(f"**{shown}**" if failed else shown)
                    if failed:
                        missed.append(f"{model} at {float(keep):.0%} kept, {effort_name}, {label} ({shown})")
            lines.append(f"| {model} | {float(keep):.0%} | {' | '.join(cells)} |")
    return "\n".join([*lines, *_missed(f"Gradient or fast lose more than {MOST_LOST:.0%}", missed)])


def lost(values: dict[str, float], effort: str) -> float | None:
    """Share of thorough's advantage over uniform that another effort's plan lacks; None where there is no advantage."""
    advantage = values["uniform"] - values["thorough"]
    return (values[effort] - values["thorough"]) / advantage if advantage > 0 else None
