"""Markdown of ``benchmarks.real`` and ``benchmarks.real_plans``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.stats import bootstrap, spearmanr

from benchmarks.allocation import rises
from benchmarks.profile_tables import LEAST_SPEARMAN, spearman
from benchmarks.rows import Row

_MB = 1e6


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Marker -> Markdown."""
    shown = [{**row, "model": name(row)} for row in rows]
    return {"real": "\n".join(rises(shown)), "real-cost": cost(shown), "real-size": size(shown)}


def beside(standing: str, table: str) -> str:
    """The table with the lines that stand there of models and budgets which it does not have: nobody measures all of them again
    because one machine has not kept the others' rows.
    """
    head, rule, *fresh = table.splitlines()
    parts: dict[tuple[str, ...], list[str]] = {}
    for lines in (standing.splitlines(), fresh):
        cleared: set[tuple[str, ...]] = set()
        for line in lines:
            if line.startswith("|") and line not in (head, rule):
                key = tuple(cell.partition(" (")[0].strip() for cell in line.split("|")[1:3])
                if key not in cleared:
                    cleared.add(key)
                    parts[key] = []
                parts[key].append(line)
    return "\n".join([head, rule, *(line for lines in parts.values() for line in lines)])


def name(row: Row) -> str:
    """The model, and the effort and the solver where they are not the usual ones."""
    unusual = [row["effort"]] if row["effort"] != "gradient" else []
    return ", ".join([row["model"], *unusual, *([row["solver"]] if "solver" in row else [])])


def cost(rows: Sequence[Row]) -> str:
    """Seconds of each stage, and how many dense forwards they are."""
    lines = [
        "| model | budgets | stage | seconds | forward-equivalents | per layer |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        dense = fmean(row["dense_s"])
        total = sum(row["stages_s"].values())
        for stage, seconds in (*row["stages_s"].items(), ("**all**", total)):
            passes = seconds / dense
            lines.append(
                f"| {row['model']} | `{' '.join(row['budgets'])}` | {stage} "
                f"| {seconds:,.1f} | {passes:.2f} | {passes / row['layers']:.2f} |"
            )
    return "\n".join(lines)


def size(rows: Sequence[Row]) -> str:
    """Memory and disk beside the weights, and what times were taken in."""
    lines = [
        "| model | budgets | layers | weights, MB | largest process, MB | / weights | home at its largest, MB | / weights "
        "| at its end, MB | / weights | of it store, MB | / weights | dense forward, s | threads | runs |",
        "|---" * 15 + "|",
    ]
    for row in rows:
        weights = row["weights_bytes"]
        sizes = [row[name] for name in ("process_bytes", "home_bytes_most", "home_bytes_end")]
        sizes += [row["store_bytes"]] if "store_bytes" in row else []
        cells = " | ".join(f"{bytes_taken / _MB:,.0f} | {bytes_taken / weights:.1f}" for bytes_taken in sizes)
        cells += "" if "store_bytes" in row else " | - | -"
        dense = " and ".join(f"{seconds:.1f}" for seconds in row["dense_s"])
        lines.append(
            f"| {row['model']} | `{' '.join(row['budgets'])}` | {row['layers']} | {weights / _MB:,.0f} | {cells} "
            f"| {dense} | {row['threads']} | {row['runs']} |"
        )
    return "\n".join(lines)


def plans(rows: Sequence[Row]) -> str:
    """Rank correlation of predicted with measured losses over random plans, and the planned one."""
    lines = [
        "| model | removed | plans | windows | predicted, 10th to 90th | Spearman (95 % interval) | with cross terms | halves "
        "| measured / predicted | plan: predicted | measured |",
        "|---" * 11 + "|",
    ]
    missed = []
    for key in dict.fromkeys((name(row), row["keep"], row["windows"]) for row in rows):
        plan_rows = [row for row in rows if (name(row), row["keep"], row["windows"]) == key]
        randoms = [row for row in plan_rows if isinstance(row["plan"], int)]
        if len(randoms) < 2:
            continue  # cut short; there is nothing to correlate
        model, removed = key[0], f"{1 - float(key[1]):.0%}"
        predicted = np.array([row["predicted_nats"] for row in randoms])
        measured = np.array([row["one_shot"]["nats"] for row in randoms])
        low, high = np.quantile(predicted, [0.1, 0.9])
        correlation = spearman(predicted.tolist(), measured.tolist())
        halves = spearman(*zip(*(row["one_shot"]["halves"] for row in randoms), strict=True))
        shown = f"{correlation:.3f}"
        if correlation < LEAST_SPEARMAN:
            missed.append(f"{model} at {removed} ({shown})")
            shown = f"**{shown}**"
        shown += _interval(predicted, measured)
        planned = next((row for row in plan_rows if not isinstance(row["plan"], int)), None)
        own = f"{planned['predicted_nats']:.4f} | {planned['one_shot']['nats']:.4f}" if planned else "- | -"
        lines.append(
            f"| {model} | {removed} | {len(randoms)} | {key[2]} | {low:.3f} to {high:.3f} | {shown} | {_crossed(randoms)} "
            f"| {halves:.3f} "
            f"| {np.median(measured / predicted):.2f} | {own} |"
        )
    return "\n".join([*lines, "", f"Below {LEAST_SPEARMAN}: {'; '.join(missed) or 'nowhere'}."])


def _crossed(rows: Sequence[Row]) -> str:
    """Rank correlation of what cross terms make of the sums; a dash where they are not known."""
    if not all("cross" in row for row in rows):
        return "-"
    predicted = np.array([row["predicted_nats"] * row["cross"] for row in rows])
    measured = np.array([row["one_shot"]["nats"] for row in rows])
    return f"{spearman(predicted.tolist(), measured.tolist()):.3f}{_interval(predicted, measured)}"


def _interval(predicted: np.ndarray, measured: np.ndarray) -> str:
    """Between which values the rank correlation of other plans, drawn as these were, is to be expected: a bootstrap; of few
    plans it says nothing.
    """
    if len(measured) < 10:
        return ""
    ends = bootstrap(
        (predicted, measured),
        lambda some, others: float(spearmanr(some, others).statistic),
        paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return f" ({ends.low:.2f} to {ends.high:.2f})"
