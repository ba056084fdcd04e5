"""Mixed ranks against uniform ones at the same budgets, on trained models, evaluated on text that nothing was tuned on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allocator.plan.documents.plan import Certificate
from allocator.report.document import Report
from benchmarks.rows import Rows, geometric, report_of
from benchmarks.sentences import by_sentence

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = (
    ["block_params=0.9"],
    ["block_params=0.8"],
    ["block_params=0.6"],
    ["block_params=0.8", "kv_bytes_per_token=0.75"],
    ["block_params=0.8", "kv_bytes_per_token=0.5"],
)
EXAMPLES = ("pylm-llama", "pylm-gpt2")
BY_SENTENCE = {"grammar-qwen2": 10}
"""Models trained on single sentences behind a start token -> tokens of a sentence that are used; shorter ones are left out."""
SHARED = ("stories260K", "TinyStories-656K", "babyllama361", "grammar-qwen2")


@dataclass(frozen=True)
class Case:
    """A model with its disjoint calibration and evaluation texts."""

    name: str
    folder: Path
    calibration: Path
    evaluation: Path


def printed(home: Path, *arguments: str) -> Any:
    """The JSON that ``python -m`` with these arguments prints, in the environment of a home.

    Raises:
        SystemExit: it failed.
    """
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment(home),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"python -m {' '.join(arguments)}: exit {process.returncode}")
    return json.loads(process.stdout)


def cases(work: Path) -> list[Case]:
    """The bundled models; with a folder ``../shared`` beside the checkout, its trained models too."""
    all_cases = []
    for name in EXAMPLES:
        folder = ROOT / "examples" / "models" / name
        all_cases.append(Case(name, folder, folder / "calibration.txt", folder / "evaluation.txt"))
    text = ROOT.parent / "shared" / "text" / "tinystories_valid_400k.txt"
    if text.is_file():
        content = text.read_bytes()
        halves = (work / "tinystories-calibration.txt", work / "tinystories-evaluation.txt")
        for path, part in zip(halves, (content[:200_000], content[200_000:400_000]), strict=True):
            path.write_bytes(part.decode("utf-8", errors="ignore").encode())
        models = ROOT.parent / "shared" / "models"
        all_cases += [
            _shared(name, models / name, halves, work) for name in SHARED if (models / name).is_dir()
        ]
    return all_cases


def _shared(name: str, folder: Path, halves: tuple[Path, Path], work: Path) -> Case:
    if name not in BY_SENTENCE:
        return Case(name, folder, *halves)
    texts = tuple(work / f"{name}-{half.name}" for half in halves)
    copy = by_sentence(folder, dict(zip(halves, texts, strict=True)), work / name, BY_SENTENCE[name])
    return Case(name, copy, *texts)


def command(case: Case, budgets: list[str], out: Path, *more: str) -> list[str]:
    """``rankalloc compress`` with this interpreter.

    Args:
        more: further arguments of the command.
    """
    arguments = [arg for budget in budgets for arg in ("--budget", budget)]
    texts = ["--calibration", str(case.calibration), "--evaluation", str(case.evaluation)]
    return [
        *(sys.executable, "-m", "api.cli", "compress", str(case.folder), *texts, *arguments),
        *("--out", str(out), "--export", "compact", *more),
    ]


def environment(home: Path) -> dict[str, str]:
    """The environment of the command: a store of its own, threads as here, no other setting."""
    return {
        "RANKALLOC_HOME": str(home),
        "PATH": "/usr/bin:/bin",
        **{name: os.environ[name] for name in ("RANKALLOC_THREADS", "OMP_NUM_THREADS") if name in os.environ},
    }


def compress(case: Case, budgets: list[str], work: Path, *more: str) -> dict[str, Any]:
    """One ``rankalloc compress`` in a process of its own; all budgets of a model share one store, hence one profile."""
    out = work / "out" / f"{case.name}-{'-'.join(budgets).replace('=', '_')}"
    out.parent.mkdir(exist_ok=True)
    process = subprocess.run(
        command(case, budgets, out, "--json", *more),
        env=environment(work / "home"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{case.name} {budgets}: exit {process.returncode}\n{process.stderr}")
    return json.loads(process.stdout)


def run(rows: Rows, work: Path) -> None:
    """All models under all budgets; rows that are there already are left as they are."""
    for case in cases(work):
        for budgets in BUDGETS:
            if not rows.has(model=case.name, budgets=budgets):
                report = compress(case, budgets, work)
                rows.add([{"model": case.name, "budgets": budgets, "report": report}])


def certificate(report: Report) -> Certificate:
    """The program's certificate; a refined plan is not the surrogate's optimum, so that of the plan it started from."""
    proof = report.certificate
    start = None if report.refinement is None else report.refinement.start
    if proof is None and start is not None:
        proof = start.certificate
    assert proof is not None
    return proof


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what ``rises`` shows, and means over the models."""
    return "\n".join([*rises(rows), "", *means(rows)])


def rises(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: evaluation rise of each allocation that was measured, and surrogate against measured loss of the plan."""
    lines = [
        "| model (dense perplexity) | budgets | uniform A3 | uniform | per kind | mixed | mixed / uniform | mixed / A3 "
        "| predicted | measured | gap |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        report = report_of(row)
        plan, models = report.plan, (report.uniform_a3, report.uniform, report.uniform_kind, report.plan)
        values = [None if figures is None else figures.evaluation_rise_nats for figures in models]
        least = min(rise for rise in values if rise is not None)
        shown = [
            "-" if rise is None else f"**{rise:.4f}**" if rise == least else f"{rise:.4f}" for rise in values
        ]
        shares = (
            f"{plan.evaluation_rise_nats / rise:.2f}" if rise else "-" for rise in (values[1], values[0])
        )
        lines.append(
            f"| {row['model']} ({report.dense.evaluation_perplexity:.2f}) | `{' '.join(row['budgets'])}` "
            f"| {' | '.join([*shown, *shares])} "
            f"| {plan.predicted_loss_nats:.4f} | {plan.measured_loss_nats:.4f} "
            f"| {certificate(report).gap:.0e} |"
        )
    return lines


def means(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: what the plan's rise is to that of uniform ranks under each set of budgets, geometric mean and worst model."""
    lines = [
        "| budgets | mixed / uniform A3, mean | worst | mixed / uniform, mean | worst |",
        "|---|---|---|---|---|",
    ]
    for budgets in BUDGETS:
        reports = [report_of(row) for row in rows if row["budgets"] == budgets]
        if not reports:
            continue
        cells = []
        for other in ("uniform_a3", "uniform"):
            # A rise below a hundred-thousandth of a nat is noise of either sign.
            ratios = [
                max(report.plan.evaluation_rise_nats, 1e-5) / getattr(report, other).evaluation_rise_nats
                for report in reports
            ]
            cells += [f"{geometric(ratios):.2f}", f"{max(ratios):.2f}"]
        lines.append(f"| `{' '.join(budgets)}` | {' | '.join(cells)} |")
    return lines
