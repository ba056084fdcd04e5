"""Published methods on models that people know: ``python -m benchmarks.real_peers [--model smollm2] [--method lems] ...``.

Every method of ``benchmarks.peers`` sees the calibration tokens that ``rankalloc compress`` fits on, stores at most the budget,
and is evaluated on the first tokens that a compress job evaluates on. Ours are read from the home of ``benchmarks.real``: the
windows of its own evaluations. Rows are written one by one and not measured again, nor where a row on more tokens has the
windows; what methods share (moments, decompositions, measured losses) is kept beside the home.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from allocator.base.settings import Settings
from allocator.base.statistics import mean_and_stderr
from allocator.methods.registry import DEFAULT_METHOD
from allocator.methods.registry import METHODS as SOLVERS
from allocator.plan.documents.plan import Plan
from allocator.plan.effort import (
    FIT_WINDOWS,
    LEAST_EVALUATION_TOKENS,
    MAX_WINDOW_TOKENS,
    evaluated,
    windows_scale,
)
from allocator.profiling.likelihood import nll_per_window
from allocator.stages.facts import plan_digest_of
from allocator.stages.inputs import set_up_torch
from allocator.stages.pipeline import JobView
from allocator.stages.request import Request
from allocator.stages.sources import PATH
from allocator.store import Job, Store
from benchmarks import real_peer_tables
from benchmarks.peers import KV_PEERS, PEERS, once
from benchmarks.real import RESULTS, TEAM, Run, arguments, rows_of, runs_of, show
from benchmarks.rows import Row, Rows, report_of
from solvers.checkpoints import reading
from solvers.texts.text import read_text

BUDGETS = (
    *("block_params=0.8", "block_params=0.9", "block_params=0.6"),
    *("kv_bytes_per_token=0.75", "kv_bytes_per_token=0.5"),
)
METHODS = (
    *("lems", "svd_llm", "slicegpt", "modegpt", "wanda", "wanda_vo", "svd_llm_v2", "zs_svd"),
    *("kfac_svd", "svd_llm_w", "modegpt_uniform"),
    *KV_PEERS,
)
"""Without being asked, in this order; all others are slow or far behind."""
DENSE = "dense"
_UNSAID = {"effort": "gradient", "solver": DEFAULT_METHOD}
"""Values that a request means where it does not name them."""
OURS = {"uniform_a3": "a3", "uniform": "a3+", "uniform_kind": "a3+ per kind", "plan": "a3+ plan"}
"""Name of an evaluated model in a job -> method."""
OTHERS = tuple(name for name, method in SOLVERS.items() if method.latents)
"""Solvers of ours that have homes of their own, and no baselines in them."""


@dataclass(frozen=True)
class Loaded:
    """A stock model in float32, the windows (W, T) that methods see and those that they are evaluated on."""

    model: Any
    fit: torch.Tensor
    evaluation: torch.Tensor
    prefix: int

    @classmethod
    def of(cls, run: Run, tokens: int) -> Loaded:
        inspected = reading.inspect(run.case.folder)
        window = min(MAX_WINDOW_TOKENS, inspected.sizes["positions"])
        fit, evaluation = (
            read_text(path, run.case.folder, window=window, what=what)
            for path, what in ((run.case.calibration, "calibration"), (run.case.evaluation, "evaluation"))
        )
        windows = evaluated(evaluation.windows)[: max(1, tokens // window)]
        return cls(
            reading.load(inspected),
            fit.fit(FIT_WINDOWS * windows_scale(window)),
            windows,
            len(evaluation.prefix),
        )

    def nats(self, model: Any) -> list[float]:
        """Nats/token of each evaluation window."""
        vocab = model.config.vocab_size
        return nll_per_window(model, self.evaluation, vocab, prefix=self.prefix, tick=lambda: None)

    def folder(self, run: Run) -> Path:
        """Where what the methods share is kept."""
        name = hashlib.sha256(self.fit.numpy().tobytes()).hexdigest()[:16]
        return run.folder / "peers" / run.case.name / name


def our_jobs(store: Store, run: Run, budget: str) -> list[Job]:
    """Finished compressions to this budget alone, the latest first."""
    request = {
        "budgets": [budget],
        "effort": run.effort,
        "solver": run.solver,
        "calibration": PATH + str(run.case.calibration.resolve()),
        "evaluation": PATH + str(run.case.evaluation.resolve()),
    }
    return [
        job
        for job in store.jobs.find(TEAM, limit=200).items
        if job.kind == "compress"
        and job.state == "succeeded"
        and request.items() <= {**_UNSAID, **job.request}.items()
        if not {"constraints", "bits", "heal"} & job.request.keys()
    ]


def our_nats(run: Run, budget: str, windows: int) -> dict[str, tuple[list[float], Row]]:
    """Method -> nats/token of the first evaluation windows and what it stores, of the latest job; empty where there is none."""
    if not run.home.is_dir():
        return {}
    with closing(Store.open(Settings(home=run.home, database_url=""))) as store:
        for job in our_jobs(store, run, budget):
            request = Request.stored(job.kind, job.request)
            view = JobView(job.id, job.team, request, store.items.results(job.id))
            plan = store.plans.get(TEAM, plan_digest_of(view))
            size, dense = plan.model.geometry.bytes_per_param, plan.dense
            by_method = {}
            for result in view.results["evaluate"]:
                costs = _costs(plan, result["name"])
                nats = result["evaluation_window_nats"][:windows]
                if costs is None or len(nats) < windows:
                    continue
                by_method[OURS.get(result["name"], DENSE)] = nats, stored(costs, dense, size)
            return by_method
    return {}


def stored(costs: Mapping[str, int], dense: Mapping[str, int], bytes_per_param: int) -> Row:
    """What a model of ours stores beside the dense one, in the words of the peers' rows."""
    return {
        "block_params": costs["block_params"],
        "dense_block_params": dense["block_params"],
        "kv_elements_per_token": costs["kv_bytes_per_token"] // bytes_per_param,
        "dense_kv_elements_per_token": dense["kv_bytes_per_token"] // bytes_per_param,
    }


def reported(reports: Sequence[Row], run: Run, budget: str, tokens: int) -> dict[str, Row]:
    """Method -> rise and what is stored, by the report of ``benchmarks.real`` on as many tokens; for homes that are gone."""
    for row in reports:
        if not run.owns(row) or row["budgets"] != [budget]:
            continue
        report = report_of(row)
        if report.evaluation.windows * report.evaluation.window_tokens != tokens:
            continue
        dense = report.dense.costs
        size = round(row["weights_bytes"] / dense["params"])
        models = {name: getattr(report, name) for name in OURS}
        return {
            OURS[name]: {
                "rise_nats": figures.evaluation_rise_nats,
                "rise_stderr_nats": figures.evaluation_rise_stderr_nats,
                **stored(figures.costs, dense, size),
            }
            for name, figures in models.items()
            if figures is not None
        }
    return {}


def _costs(plan: Plan, name: str) -> dict[str, int] | None:
    if name in ("plan", DENSE):
        return plan.costs if name == "plan" else plan.dense
    baseline = plan.baseline.get("uniform" if name == "uniform_a3" else name)
    return None if baseline is None else baseline.costs


def rise(nats: Sequence[float], dense: Sequence[float]) -> Row:
    """The mean difference on the same windows, and its standard error."""
    mean, stderr = mean_and_stderr([one - other for one, other in zip(nats, dense, strict=True)])
    return {"rise_nats": mean, "rise_stderr_nats": stderr, "nats": list(nats)}


def measure(
    rows: Rows,
    run: Run,
    budgets: Sequence[str],
    methods: Sequence[str],
    tokens: int,
    reports: Sequence[Row] = (),
) -> None:
    """Add what is missing of a model.

    Args:
        reports: rows of ``benchmarks.real``; without a home ours are read from them.
    """
    head = {**run.head, "tokens": tokens}
    loaded = Loaded.of(run, tokens)

    def measured(budget: str, method: str) -> bool:
        return rows.has(**head, budget=budget, method=method)

    def on_fewer(budget: str, method: str, dense: Sequence[float] | None = None) -> Row | None:
        return on_first_windows(
            rows, {**run.head, "budget": budget, "method": method}, tokens, len(loaded.evaluation), dense
        )

    if not measured("", DENSE):
        row = on_fewer("", DENSE)
        if row is None:
            started = time.perf_counter()
            losses = rise(dense_nats := loaded.nats(loaded.model), dense_nats)
            seconds = time.perf_counter() - started
            row = {**head, "budget": "", "method": DENSE, **losses, "seconds": seconds}
        rows.add([row])
    dense = next(row for row in rows if head.items() <= row.items() and row["method"] == DENSE)["nats"]
    with once.folder(loaded.folder(run)):
        for budget in budgets:
            metric, _, keep = budget.partition("=")
            ours = our_nats(run, budget, len(loaded.evaluation))
            own = ours.pop(DENSE, None)
            for solver in OTHERS:
                other_nats = our_nats(replace(run, solver=solver), budget, len(loaded.evaluation))
                own = own or other_nats.get(DENSE)
                ours |= {f"{solver} plan": other_nats["a3+ plan"]} if "a3+ plan" in other_nats else {}
            from_report = {} if ours else reported(reports, run, budget, tokens)
            for method, losses in from_report.items():
                if not measured(budget, method):
                    rows.add([{**head, "budget": budget, "method": method, **losses}])
            if not ours and not from_report:
                sys.stderr.write(
                    f"{run.case.name} {budget}: no job of ours; python -m benchmarks.real --budget {budget}\n"
                )
            for method, (nats, costs) in ours.items():
                if not measured(budget, method):
                    assert own is not None, "a compress job evaluates the dense model"
                    rows.add([{**head, "budget": budget, "method": method, **rise(nats, own[0]), **costs}])
            peers = KV_PEERS if metric == "kv_bytes_per_token" else PEERS
            for method in (name for name in methods if name in peers):
                if measured(budget, method):
                    continue
                row = on_fewer(budget, method, dense)
                if row is None:
                    losses = _measured(loaded, peers[method], float(keep), dense)
                    row = {**head, "budget": budget, "method": method, **losses}
                rows.add([row])


def on_first_windows(
    rows: Sequence[Row], wanted: Row, tokens: int, windows: int, dense: Sequence[float] | None = None
) -> Row | None:
    """The row of a model on its first ``windows``, of one that was evaluated on more; None where there is none.

    Args:
        dense: nats/token of the dense model on these windows; None: it is the model itself.
    """
    for row in rows:
        if wanted.items() <= row.items() and row["tokens"] > tokens and "nats" in row:
            nats = row["nats"][:windows]
            return {**row, "tokens": tokens, **rise(nats, nats if dense is None else dense)}
    return None


def _measured(loaded: Loaded, compress: Any, keep: float, dense: Sequence[float]) -> Row:
    started = time.perf_counter()
    try:
        model, accounting = compress(loaded.model, loaded.fit, keep)
    except ValueError as error:
        return {"error": str(error)}
    finally:
        once.forget()  # the next method reads from the folder what it needs: all together are too much for memory
    seconds = time.perf_counter() - started
    return {**rise(loaded.nats(model), dense), **asdict(accounting), "seconds": seconds}


def main(argv: list[str] | None = None) -> None:
    """Parse arguments, measure what is missing, fill and print the tables."""
    parser = arguments("benchmarks.real_peers", __doc__)
    parser.add_argument("--budget", action="append", help="repeatable; block_params or kv_bytes_per_token")
    parser.add_argument("--method", action="append", choices=[*PEERS, *KV_PEERS], help="repeatable")
    parser.add_argument("--tokens", type=int, default=LEAST_EVALUATION_TOKENS, help="of the evaluation text")
    options = parser.parse_args(argv)
    budgets, methods = options.budget or BUDGETS, options.method or METHODS
    for budget in budgets:
        if budget.partition("=")[0] not in ("block_params", "kv_bytes_per_token"):
            parser.error(f"--budget {budget}: block_params=0.8 or kv_bytes_per_token=0.75, one at a time")
    set_up_torch(Settings())
    rows, reports = rows_of(options, "real-peers"), Rows(RESULTS / "real.json", resume=True)
    for run in runs_of(options):
        measure(rows, run, budgets, methods, options.tokens, reports)
    show(options, real_peer_tables.tables(rows))


if __name__ == "__main__":
    main()
