"""The benchmark on models that people know: ``make real``, or ``python -m benchmarks.real [--model smollm2|gemma3|PATH] ...``.

``rankalloc compress`` with WikiText-2, and what each of its stages takes. It goes on where it was cut short: the home of a
model and an effort is kept, and so are the rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from allocator.base.settings import Settings
from allocator.methods.registry import DEFAULT_METHOD, METHODS
from allocator.plan.effort import EFFORTS
from allocator.stages.sources import PATH
from allocator.store import Event, Job, Store
from benchmarks import real_tables
from benchmarks.allocation import ROOT, Case, command, environment, printed
from benchmarks.real_models import KNOWN, built, cache
from benchmarks.rows import Row, Rows
from benchmarks.usage import Usage, folder_bytes, watched
from tests.support.pages import fill, filled

TEAM = "default"
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks" / "results.md"
PAGES = (PAGE, ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
BUDGET = "block_params=0.8"
_GONE = ("job.crashed", "job.cancelled")
"""Events that may come long after the process whose job they end."""


@dataclass(frozen=True)
class Run:
    """A model at an effort, and where what belongs to it is kept."""

    case: Case
    effort: str
    folder: Path
    """Outside the checkout."""
    solver: str = DEFAULT_METHOD

    @property
    def root(self) -> Path:
        name = self.effort if self.solver == DEFAULT_METHOD else f"{self.effort}-{self.solver}"
        return self.folder / "runs" / self.case.name / name

    @property
    def home(self) -> Path:
        """The store that all budgets share."""
        return self.root / "home"

    @property
    def measured(self) -> Path:
        """The store of a profile whose curves are all measured, and of that from gradients beside it."""
        return self.root.parent / "measured" / "home"

    def file(self, name: str, budgets: Sequence[str]) -> Path:
        """A path beside the home, of these budgets alone."""
        return self.root / "-".join([*budgets, name]).replace("=", "_")

    @property
    def head(self) -> Row:
        """The fields that tell its rows from others."""
        texts = {"calibration": self.case.calibration.name, "evaluation": self.case.evaluation.name}
        solver = {} if self.solver == DEFAULT_METHOD else {"solver": self.solver}
        return {"model": self.case.name, "effort": self.effort, **solver, **texts}

    def owns(self, row: Row) -> bool:
        """Whether a row is of this run: those of the default solver name none."""
        solver = row.get("solver", DEFAULT_METHOD)
        return solver == self.solver and self.head.items() <= row.items()


def stage_seconds(events: Sequence[Event]) -> dict[str, float]:
    """Seconds by stage: every moment belongs to the stage that started last.

    A job whose process is gone ends with the last that it said.
    """
    seconds: dict[str, float] = {}
    stage = None
    for event, following in pairwise(events):
        if event.type == "stage.started":
            stage = event.data["stage"]
        if stage is not None and following.type not in _GONE:
            seconds[stage] = (
                seconds.get(stage, 0.0) + (following.created_at - event.created_at).total_seconds()
            )
    return seconds


def _events(store: Store, job: Job) -> list[Event]:
    events: list[Event] = []
    while page := store.events.list(TEAM, job.id, after=events[-1].seq if events else 0):
        events += page
    return events


def spent(run: Run, budgets: Sequence[str]) -> tuple[dict[str, float], int]:
    """Seconds by stage over all jobs of the home that were asked for this, and how many they are."""
    request = {
        "budgets": list(budgets),
        "effort": run.effort,
        "calibration": PATH + str(run.case.calibration.resolve()),
        "evaluation": PATH + str(run.case.evaluation.resolve()),
    }
    with closing(Store.open(Settings(home=run.home, database_url=""))) as store:
        jobs = [
            job
            for job in store.jobs.find(TEAM, limit=200).items
            if job.kind == "compress" and request.items() <= job.request.items()
        ]
        total: dict[str, float] = {}
        for job in reversed(jobs):
            for stage, seconds in stage_seconds(_events(store, job)).items():
                total[stage] = total.get(stage, 0.0) + seconds
    return total, len(jobs)


def _dense(run: Run) -> dict[str, Any]:
    forward: dict[str, Any] = printed(
        run.home, "benchmarks.dense_forward", str(run.case.folder), str(run.case.calibration)
    )
    return forward


def compressed(run: Run, budgets: Sequence[str], *options: str, part: str = "") -> tuple[Row, Path, Usage]:
    """The report of ``rankalloc compress``, the folder that it wrote, and what it took.

    Args:
        part: in front of the names of what lies beside the home.

    Raises:
        SystemExit: the command failed.
    """
    out = run.file(f"{part}out", budgets)
    shutil.rmtree(out, ignore_errors=True)
    run.root.mkdir(parents=True, exist_ok=True)
    status, usage = watched(
        command(run.case, list(budgets), out, "--effort", run.effort, "--solver", run.solver, *options),
        env=environment(run.home),
        cwd=ROOT,
        folder=run.home,
        file=run.file(f"{part}usage.json", budgets),
    )
    if status:
        raise SystemExit(
            f"{run.case.name} {' '.join(budgets)}: exit {status}; the same command goes on from here"
        )
    return json.loads((out / "report.json").read_text(encoding="utf-8")), out, usage


def measure(run: Run, budgets: Sequence[str], *, keep: bool, refine: int | None = None) -> Row:
    """Compress once, between two dense forwards.

    Args:
        keep: leave the compressed model beside the home.
        refine: evaluations that refinement may spend; None: the default.

    Raises:
        SystemExit: the command failed.
    """
    dense_before = _dense(run)
    options = [] if refine is None else ["--refine", str(refine)]
    if run.solver != DEFAULT_METHOD:  # baselines are in the row of the default
        options += ["--baselines", "none"]
    report, out, usage = compressed(run, budgets, *options)
    if not keep:
        shutil.rmtree(out)
    stages, runs = spent(run, budgets)
    return {
        **run.head,
        "budgets": list(budgets),
        **({} if refine is None else {"refine": refine}),
        "threads": dense_before["threads"],
        "dense_s": [dense_before["seconds"], _dense(run)["seconds"]],
        "dense_tokens": dense_before["tokens"],
        "layers": len(report["plan"]["ranks"]),
        "stages_s": stages,
        "runs": runs,
        "weights_bytes": sum(path.stat().st_size for path in run.case.folder.glob("*.safetensors")),
        "process_bytes": usage.process_bytes,
        "home_bytes_most": usage.folder_bytes,
        "home_bytes_end": folder_bytes(run.home),
        "store_bytes": folder_bytes(run.home) - folder_bytes(Settings(home=run.home).artifacts_dir),
        "report": report,
    }


def text_of(named: Path | None, part: str) -> Path:
    """The text that was named, or WikiText-2 beside the checkout.

    Raises:
        SystemExit: there is none.
    """
    path = named or ROOT.parent / "shared" / "text" / f"wikitext2-{part}.txt"
    if not path.is_file():
        raise SystemExit(f"{path}: no such text; name --calibration and --evaluation")
    return path


def arguments(program: str, about: str | None) -> argparse.ArgumentParser:
    """The arguments of all benchmarks of such models."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--model", action="append", help=f"{', '.join(KNOWN)} or a folder; repeatable")
    parser.add_argument("--effort", default="gradient", choices=list(EFFORTS))
    parser.add_argument("--calibration", type=Path, help="default: WikiText-2, valid")
    parser.add_argument("--evaluation", type=Path, help="default: WikiText-2, test")
    parser.add_argument("--json", type=Path, help="the file of rows; the page of docs is then left alone")
    return parser


def runs_of(options: argparse.Namespace, solver: str = DEFAULT_METHOD) -> list[Run]:
    """The models that were asked for, fetched and built where they are not there yet."""
    texts = (text_of(options.calibration, "valid"), text_of(options.evaluation, "test"))
    runs = []
    for model in options.model or KNOWN:
        folder = built(KNOWN[model]) if model in KNOWN else Path(model).resolve()
        if not folder.is_dir():
            raise SystemExit(f"--model {model}: no such folder; known by name are {', '.join(KNOWN)}")
        runs.append(Run(Case(folder.name, folder, *texts), options.effort, cache(), solver))
    return runs


def rows_of(options: argparse.Namespace, name: str) -> Rows:
    """The file that was named, or one of the results: folders that nobody else has are kept apart."""
    only_known = all(model in KNOWN for model in options.model or KNOWN)
    return Rows(options.json or RESULTS / f"{name}{'' if only_known else '-others'}.json", resume=True)


def show(
    options: argparse.Namespace,
    tables: dict[str, str],
    onto: Callable[[str, str], str] = lambda standing, table: table,
) -> None:
    """Print the tables; those of known models go into the pages too.

    Args:
        onto: (what stands on a page, a table) -> what is to stand there.
    """
    if options.json is None and all(model in KNOWN for model in options.model or KNOWN):
        for page in PAGES:
            standing = filled(page)
            fill(page, {name: onto(standing[name], tables[name]) for name in tables if name in standing})
    sys.stdout.write("\n\n".join(tables.values()) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the tables."""
    parser = arguments("benchmarks.real", __doc__)
    parser.add_argument(
        "--budget", action="append", help=f"default {BUDGET}; repeatable, several of one plan in quotes"
    )
    parser.add_argument("--solver", default=DEFAULT_METHOD, choices=list(METHODS))
    parser.add_argument("--keep", action="store_true", help="leave the compressed models in the cache")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of these models first")
    parser.add_argument("--refine", type=int, help="evaluations for refinement; default: the command's")
    options = parser.parse_args(argv)
    rows = rows_of(options, "real")
    for run in runs_of(options, options.solver):
        if options.fresh:
            shutil.rmtree(run.root, ignore_errors=True)
            rows[:] = [row for row in rows if not run.owns(row)]
        for budgets in (text.split() for text in options.budget or [BUDGET]):
            if not any(run.owns(row) and row["budgets"] == budgets for row in rows):
                rows.add([measure(run, budgets, keep=options.keep, refine=options.refine)])
    show(options, real_tables.tables(rows), onto=real_tables.beside)


if __name__ == "__main__":
    main()
