"""Latency budgets against the clock: what a plan promises of one pass, and what its written checkpoint takes.

``python -m benchmarks.latency [--busy]`` measures a table of each bundled model, compresses it under budgets on time with it,
loads the compact checkpoints and lets them take turns with the dense model. It fills the table of docs/how-to/latency.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

import solvers  # noqa: F401 - registers the compact classes
from allocator.base.settings import Settings
from allocator.plan.model.latency import Workload
from allocator.plan.model.ranks import Ranks
from allocator.profiling.timing.latency_table import measured_table
from allocator.profiling.timing.models import Setup, geometry_without_weights
from allocator.profiling.timing.passes import seconds_of_a_pass
from api.cli.running import run as compress
from benchmarks.allocation import EXAMPLES, ROOT
from solvers.checkpoints import reading
from tests.support.pages import fill

PLACES: tuple[Workload, ...] = ((1, 256, "prefill"), (8, 128, "decode"))
SHARES = ("0.9", "0.75")
_TURNS = 15
_PASSES = 12


def compressed(folder: Path, table: Path, budget: str, home: Path, out: Path) -> dict[str, Any]:
    """The plan under one budget on time, its checkpoint in ``out``; the profile is measured once per model."""
    request = {
        "model": folder,
        "calibration": None,
        "evaluation": None,
        "budgets": [budget],
        "solver": "a3+",
        "allocation": "ilp",
        "export": ["compact"],
        "effort": "fast",
        "constraints": None,
        "latency_table": table,
        "refine": 0,
        "heal": 0,
    }
    compress(Settings(home=home, threads=1), request, out, table=False)
    plan: dict[str, Any] = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    return plan


def ratios(setup: Setup, dense: Any, cut: Any, place: Workload) -> list[float]:
    """Time of the cut model over the dense one's, turn by turn."""
    turns = []
    for turn in range(_TURNS + 1):
        order = (dense, cut) if turn % 2 else (cut, dense)
        spent = {id(model): seconds_of_a_pass(setup, model, place, _PASSES) for model in order}
        if turn:
            turns.append(spent[id(cut)] / spent[id(dense)])
    return turns


def run(work: Path, *, busy: bool) -> list[dict[str, Any]]:
    """Rows of predicted and measured times, relative to dense."""
    rows = []
    for name in EXAMPLES:
        folder = ROOT / "examples" / "models" / name
        config, geometry = geometry_without_weights(reading.inspect(folder), torch.float32)
        clock = time.process_time if busy else time.perf_counter
        setup = Setup(
            config, geometry, torch.float32, torch.device("cpu"), layers=geometry.layers, clock=clock
        )
        table = work / f"{name}.json"
        document = measured_table(setup, PLACES)
        table.write_text(json.dumps(document), encoding="utf-8")
        # The table's dense model: decoding needs sizes that the stock class does not tell.
        dense = setup.at(geometry.layers, Ranks.dense(geometry))
        for timing, (batch, context, phase) in zip(document["timings"], PLACES, strict=True):
            for share in SHARES:
                budget = f"latency={share}@batch={batch},context={context},phase={phase}"
                out = work / f"{name}-{phase}-{share}"
                plan = compressed(folder, table, budget, work / "home", out)
                cut = AutoModelForCausalLM.from_pretrained(out / "compact", dtype=torch.float32).eval()
                with torch.no_grad():
                    measured = ratios(setup, dense, cut, (batch, context, phase))
                low, _, high = statistics.quantiles(measured, n=4)
                rows.append(
                    {
                        "model": name,
                        "budget": budget,
                        "predicted": plan["budgets"][0]["used"] / timing["dense_ns"],
                        "measured": statistics.median(measured),
                        "quartiles": [low, high],
                        "loss": plan["predicted"]["loss_nats"],
                        "table_checks": [c["predicted_ns"] / c["measured_ns"] for c in timing["checks"]],
                    }
                )
                sys.stderr.write(f"{json.dumps(rows[-1])}\n")
                fill(ROOT / "docs" / "how-to" / "latency.md", {"latency": table_of_rows(rows)})
    return rows


def table_of_rows(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | budget | predicted / dense | measured / dense (quartiles) | predicted loss, nats/token |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['model']} | `{row['budget']}` | {row['predicted']:.2f} "
            f"| {row['measured']:.2f} ({low:.2f} to {high:.2f}) | {row['loss']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--busy", action="store_true", help="one thread, processor time: others use the CPU")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = run(Path(name), busy=options.busy)
    sys.stdout.write(table_of_rows(rows) + "\n")


if __name__ == "__main__":
    main()
