"""``python -m benchmarks.peers``: rise of loss on evaluation text, of published methods beside ``a3`` and ``a3+``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from math import exp
from pathlib import Path
from typing import Any

from allocator.plan.baselines import floored
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from benchmarks import allocation
from benchmarks.ablation import KEEPS, MODELS, SolvedModel, uniform_ranks
from benchmarks.peers import KV_PEERS, PEERS
from benchmarks.rows import Row, Rows, geometric, report_of
from benchmarks.subjects import Subject, subjects

KV_KEEPS = ("0.75", "0.5")
OURS = ("a3", "a3+")
PLAN = "a3+ plan"
PLANNED = ("pylm-llama", "pylm-gpt2", "babyllama361")
MIXED = (PLAN, "asvd_strs", "modegpt", "svd_llm_v2", "lems", "zs_svd", "zs_svd_stages", "palu")
"""Methods that choose a rank for each layer; the others take one ratio."""


def kv_ranks(subject: Subject, keep: str) -> Ranks:
    """QK and OV at this ratio of their full rank in every layer, hence of the cache; the MLP whole."""
    geometry, ratio = subject.geometry, Fraction(keep)
    component_ranks = (floored(geometry, c, Fraction(1) if c == "mlp" else ratio) for c in COMPONENTS)
    return Ranks(*((rank,) * geometry.layers for rank in component_ranks))


def our_rows(
    subject: Subject, names: Sequence[str], keeps: Sequence[str], ranks_at: Callable[[Subject, str], Ranks]
) -> list[Row]:
    """``a3`` and ``a3+`` at uniform ranks, counted like the peers."""
    if not names:
        return []
    costs, full = CostModel(subject.geometry), Ranks.dense(subject.geometry)
    solved, rows = SolvedModel(subject, names), []
    for keep in keeps:
        ranks = ranks_at(subject, keep)
        for name in names:
            count: dict[str, int] = {}
            for label, counted_ranks in (("", ranks), ("dense_", full)):
                count[f"{label}block_params"] = costs.total(Metric("block_params"), counted_ranks)
                cache = costs.total(Metric("kv_bytes_per_token"), counted_ranks)
                count[f"{label}kv_elements_per_token"] = cache // subject.geometry.bytes_per_param
            rise = subject.rise_of(solved.layers(name, ranks))
            rows.append({**_head(subject, name, keep), "rise_nats": rise, **count})
    return rows


def peer_row(subject: Subject, name: str, keep: str) -> Row:
    """One row; a ratio that a method cannot reach has ``error`` in place of numbers."""
    try:
        model, accounting = (PEERS | KV_PEERS)[name](subject.dense, subject.fit, float(keep))
    except ValueError as error:
        return {**_head(subject, name, keep), "error": str(error)}
    return {**_head(subject, name, keep), "rise_nats": subject.rise(model), **asdict(accounting)}


def _head(subject: Subject, name: str, keep: str) -> Row:
    return {"model": subject.name, "method": name, "keep": keep, "dense_nats": subject.dense_nats}


def plan_rows(reports: list[dict[str, Any]]) -> list[Row]:
    """Mixed plans among rows of ``benchmarks.allocation`` whose only budget is one of our ratios."""
    rows = []
    for row in reports:
        keep = row["budgets"][0].removeprefix("block_params=")
        if len(row["budgets"]) == 1 and keep in KEEPS:
            rise = report_of(row).plan.evaluation_rise_nats
            rows.append({"model": row["model"], "method": PLAN, "keep": keep, "rise_nats": rise})
    return rows


def planned(work: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """``rankalloc compress`` for these models at the three ratios, as rows of ``benchmarks.allocation``."""
    return [
        {"model": case.name, "budgets": [budget], "report": allocation.compress(case, [budget], work)}
        for case in allocation.cases(work)
        if case.name in names
        for budget in (f"block_params={keep}" for keep in KEEPS)
    ]


def from_ablation(rows: Sequence[Row]) -> list[Row]:
    """Rows of ``a3`` and ``a3+`` that ``benchmarks.ablation`` has measured already, on the same windows and ranks."""
    return [{**row, "method": row["variant"]} for row in rows if row["variant"] in OURS]


def measure(rows: Rows, subject: Subject, methods: Sequence[str], *, kv: bool) -> None:
    """Add what ``rows`` lack of these methods for a model."""
    keeps, peers = (KV_KEEPS, KV_PEERS) if kv else (KEEPS, PEERS)
    missing = [name for name in OURS if name in methods and not rows.has(model=subject.name, method=name)]
    rows.add(our_rows(subject, missing, keeps, kv_ranks if kv else uniform_ranks))
    for name in (name for name in peers if name in methods):
        for keep in keeps:
            if not rows.has(model=subject.name, method=name, keep=keep):
                rows.add([peer_row(subject, name, keep)])


def table(rows: Sequence[Row]) -> str:
    """Markdown: methods down and models across per ratio, rises in nats/token; one-ratio methods first."""
    models = list(dict.fromkeys(row["model"] for row in rows if "dense_nats" in row))
    dense = {row["model"]: row["dense_nats"] for row in rows if "dense_nats" in row}
    names = list(dict.fromkeys(row["method"] for row in rows))
    names.sort(key=lambda name: name not in OURS)
    order = [name for name in names if name not in MIXED] + [name for name in MIXED if name in names]
    head = " | ".join(f"{model} ({exp(dense[model]):.2f})" for model in models)
    lines = [f"| kept | ranks | method | {head} | over a3 | block params |"]
    lines += ["|---" * (len(models) + 5) + "|"]
    for keep in dict.fromkeys(row["keep"] for row in rows):
        stored = {(row["method"], row["model"]): _stored(row) for row in rows if row["keep"] == keep}
        rise = {(row["method"], row["model"]): row.get("rise_nats") for row in rows if row["keep"] == keep}
        for name in order:
            values = [rise.get((name, model)) for model in models]
            shown = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
            ratios = [
                value / rise["a3", model]
                for model, value in zip(models, values, strict=True)
                if value is not None and rise.get(("a3", model))
            ]
            mean = f"{geometric(ratios):.2f} ({len(ratios)})" if ratios else "-"
            kind = "mixed" if name in MIXED else "uniform"
            shares = [share for model in models if (share := stored.get((name, model)))]
            mean_share = f"{sum(shares) / len(shares):.0%}" if shares else "-"
            lines.append(f"| {float(keep):.0%} | {kind} | {name} | {shown} | {mean} | {mean_share} |")
    return "\n".join(lines)


def run(
    of_blocks: Rows,
    of_cache: Rows,
    work: Path,
    *,
    models: Path = MODELS,
    names: list[str] | None = None,
    methods: Sequence[str] = (*OURS, *PEERS, *KV_PEERS),
) -> None:
    """Add what the rows lack; ``work`` holds texts, ``models`` the two trained ones."""
    for subject in subjects(work, models, names):
        measure(of_cache, subject, methods, kv=True)
        measure(of_blocks, subject, methods, kv=False)


def _stored(row: Row) -> float | None:
    """Stored block parameters as a fraction of the dense ones, where both were counted."""
    dense = row.get("dense_block_params")
    return row["block_params"] / dense if dense else None


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print the tables; rows go to ``--json``, as they come."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--models", nargs="+", help="names of benchmarks.subjects; all if absent")
    parser.add_argument("--methods", nargs="+", choices=[*OURS, *PEERS, *KV_PEERS])
    parser.add_argument("--plans", type=Path, help="raw.json of benchmarks.run: its mixed plans")
    parser.add_argument("--ablation", type=Path, help="rows of benchmarks.ablation: its a3 and a3+")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the two trained models are kept")
    parser.add_argument("--json", type=Path, help="write the rows of blocks here, of the cache in kv-...")
    parser.add_argument("--resume", action="store_true", help="measure only what these files lack")
    options = parser.parse_args(argv)
    of_blocks = Rows(options.json, resume=options.resume)
    kv_file = options.json and options.json.with_name(f"kv-{options.json.name}")
    of_cache = Rows(kv_file, resume=options.resume)
    if options.ablation:
        measured = from_ablation(json.loads(options.ablation.read_text(encoding="utf-8")))
        key = ("model", "method", "keep")
        of_blocks.add([row for row in measured if not of_blocks.has(**{name: row[name] for name in key})])
    with tempfile.TemporaryDirectory() as name:
        work, methods = Path(name), options.methods or (*OURS, *PEERS, *KV_PEERS)
        run(of_blocks, of_cache, work, models=options.out, names=options.models, methods=methods)
        if options.plans:
            reports = json.loads(options.plans.read_text(encoding="utf-8"))["allocation"]
        else:
            names = [name for name in PLANNED if not options.models or name in options.models]
            missing = [name for name in names if not of_blocks.has(model=name, method=PLAN)]
            reports = planned(work, missing)
        of_blocks.add(plan_rows(reports))
    sys.stdout.write(f"{table(of_blocks)}\n\n{table(of_cache)}\n")
