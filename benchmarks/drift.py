"""The loss of a plan made on one kind of text on others: ``python -m benchmarks.drift [--model smollm2] [--budget ...]``.

The checkpoint of ``python -m benchmarks.real --keep`` (calibrated on WikiText-2) and its dense model on WikiText-2's test part,
on TinyStories and on Python source: the standard library of the interpreter that runs this. Every figure is of
``rankalloc evaluate CHECKPOINT --dense MODEL`` on the first tokens of each text.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.allocation import printed
from benchmarks.real import arguments, rows_of, runs_of, show
from benchmarks.rows import Row

CHARACTERS = 40_000
"""The part of each text that is used: some 10,000 tokens."""
STORIES = "tinystories_valid_400k.txt"
MODULES = ("argparse", "ast", "asyncio/base_events", "difflib", "inspect", "pathlib", "subprocess", "tarfile")
"""Modules of the standard library, one behind the other."""


def texts(shared: Path) -> dict[str, str]:
    """Name -> text."""
    library = Path(sysconfig.get_paths()["stdlib"])
    source = "\n".join((library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES)
    named = {"WikiText-2": "wikitext2-test.txt", "TinyStories": STORIES}
    contents = {name: (shared / file).read_text(encoding="utf-8") for name, file in named.items()}
    return {name: text[:CHARACTERS] for name, text in {**contents, "Python source": source}.items()}


def measure(dense: Path, compact: Path, text: str, home: Path) -> dict[str, object]:
    """The document of ``rankalloc evaluate --json``.

    Raises:
        SystemExit: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "evaluation.txt")
        file.write_text(text, encoding="utf-8")
        evaluation: dict[str, object] = printed(
            home,
            "api.cli",
            "evaluate",
            str(compact),
            "--dense",
            str(dense),
            "--evaluation",
            str(file),
            "--json",
        )
    return evaluation


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| model | budgets | text | tokens | dense perplexity | plan's | rise | KL to dense | same next token |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        evaluation = row["found"]
        dense, plan = evaluation["dense"], evaluation["model"]
        lines.append(
            f"| {row['model']} | `{' '.join(row['budgets'])}` | {row['text']} | {evaluation['evaluation']['tokens']:,} "
            f"| {dense['evaluation_perplexity']:.2f} | {plan['evaluation_perplexity']:.2f} "
            f"| {evaluation['evaluation_rise_nats']:.4f} | {evaluation['kl_nats']:.4f} ± {evaluation['kl_stderr_nats']:.4f} "
            f"| {evaluation['top1_agreement']:.1%} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the table."""
    parser: argparse.ArgumentParser = arguments("benchmarks.drift", __doc__)
    parser.add_argument(
        "--budget", action="append", help="default block_params=0.8; several of one plan in quotes"
    )
    options = parser.parse_args(argv)
    rows = rows_of(options, "drift")
    for run in runs_of(options):
        for budgets in (text.split() for text in options.budget or ["block_params=0.8"]):
            compact = run.file("out", budgets) / "compact"
            if not compact.is_dir():
                command = f"python -m benchmarks.real --keep --budget '{' '.join(budgets)}'"
                raise SystemExit(f"{compact}: no such folder; {command} writes it")
            for name, text in texts(run.case.evaluation.parent).items():
                head = {"model": run.case.name, "budgets": budgets, "text": name}
                if not rows.has(**head):
                    rows.add([{**head, "found": measure(run.case.folder, compact, text, run.home)}])
    show(options, {"drift": table(rows)})


if __name__ == "__main__":
    main()
