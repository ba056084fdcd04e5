"""``python -m benchmarks.peers``: the rise of loss over dense on evaluation text, per peer and ratio."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from allocator.profiling.measure import nll_nats
from benchmarks.allocation import Case, cases
from benchmarks.peers import KV_PEERS, PEERS
from solvers.reading import inspect, load
from solvers.text import read_text

KEEPS = (0.9, 0.8, 0.6)
KV_KEEPS = (0.75, 0.6)
FIT_WINDOWS = 192
EVALUATION_WINDOWS = 256


def rows_of(case: Case, names: list[str], keeps: tuple[float, ...]) -> list[dict[str, Any]]:
    """One row per method and ratio; a ratio that a method cannot reach has ``error`` in place of numbers."""
    inspected = inspect(case.folder)
    model = load(inspected)
    window = min(inspected.sizes["positions"], 512)
    fit = read_text(case.calibration, case.folder, window=window, what="calibration").fit(FIT_WINDOWS)
    evaluation = read_text(case.evaluation, case.folder, window=window, what="evaluation")
    kept, prefix = evaluation.windows[:EVALUATION_WINDOWS], len(evaluation.prefix)
    vocab = model.config.vocab_size

    def loss(other: Any) -> float:
        return nll_nats(other, kept, vocab, prefix=prefix, tick=lambda: None)

    dense, rows = loss(model), []
    for name in names:
        for keep in keeps:
            row: dict[str, Any] = {"model": case.name, "method": name, "keep": keep, "dense_nats": dense}
            try:
                compressed, accounting = (PEERS | KV_PEERS)[name](model, fit, keep)
                row |= {"rise_nats": loss(compressed) - dense, **asdict(accounting)}
            except ValueError as error:
                row["error"] = str(error)
            rows.append(row)
            sys.stderr.write(json.dumps(row) + "\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: methods down, models and ratios across, rise in nats/token."""
    columns = list(dict.fromkeys((row["model"], row["keep"]) for row in rows))
    cells = {
        (row["method"], row["model"], row["keep"]): f"{row['rise_nats']:.3f}" if "rise_nats" in row else "-"
        for row in rows
    }
    head = "| method | " + " | ".join(f"{model} {keep:.0%}" for model, keep in columns) + " |"
    lines = [head, "|---" * (len(columns) + 1) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = [cells.get((method, *column), "") for column in columns]
        lines.append(f"| {method} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure, print the table; rows go to ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--model", action="append", help="name of a case of benchmarks.allocation; all if absent"
    )
    parser.add_argument("--folder", nargs=3, metavar=("MODEL", "CALIBRATION", "EVALUATION"), type=Path)
    parser.add_argument("--method", action="append", choices=[*PEERS, *KV_PEERS])
    parser.add_argument(
        "--keep", action="append", type=float, help="fraction of block parameters or KV elements"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        if chosen.folder:
            found = [Case(chosen.folder[0].name, *chosen.folder)]
        else:
            found = [case for case in cases(Path(work)) if not chosen.model or case.name in chosen.model]
        names, rows = chosen.method or [*PEERS, *KV_PEERS], []
        for part, keeps in ((PEERS, KEEPS), (KV_PEERS, KV_KEEPS)):
            wanted = [name for name in names if name in part]
            measured = [row for case in found for row in rows_of(case, wanted, tuple(chosen.keep or keeps))]
            if measured:
                sys.stdout.write(table(measured) + "\n\n")
            rows += measured
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
