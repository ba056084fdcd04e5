"""``report.json``: what was asked, promised and measured, side by side."""

from __future__ import annotations

import math
from typing import Any

from allocator.base.statistics import mean_and_stderr
from allocator.methods.registry import PAPER
from allocator.plan.baselines import UNIFORM_RATIO
from allocator.plan.documents.plan import Plan
from allocator.report.rows import DENSE, HEALED, PLAN, UNIFORM_PAPER

REPORT_SCHEMA = "rankalloc.report/1"
_LARGEST_NLL = 700.0
"""Beyond it the exponential is no number."""


def perplexity(nll: float) -> float:
    """Of so many nats/token."""
    return math.exp(min(nll, _LARGEST_NLL))


def seen_text(evaluation: dict[str, Any]) -> str | None:
    """What is to be said of an evaluation text that calibration has seen; None where nothing has, or that is unknown."""
    seen, windows = evaluation.get("shared_windows"), evaluation.get("windows")
    if not seen or not windows:
        return None
    return (
        f"the evaluation text was seen: {seen:,} of its {windows:,} windows ({100 * seen / windows:.0f} %)"
        " also occur in the calibration text"
    )


def build_report(
    *,
    job_id: str,
    reference: str,
    request: dict[str, Any],
    plan: Plan,
    evaluated: list[dict[str, Any]],
    profile: dict[str, Any],
    timings_s: dict[str, float],
    files: dict[str, str],
    feedback: list[dict[str, Any]],
    texts: dict[str, dict[str, Any]],
    heal: dict[str, Any] | None = None,
    refinement: dict[str, Any] | None = None,
    continuations: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """The report of a compress job.

    Args:
        reference: the job's own name for the model; the plan may have been made under another.
        evaluated: results of the evaluate stage, by name ``dense``, ``uniform``, ``uniform_kind``, ``plan``, ``healed``,
            ``uniform_a3``.
        profile: ``{key, reused, forward_passes}``.
        timings_s: stage -> seconds.
        files: artifact name -> sha256.
        feedback: how error feedback damped each layer's refits; empty where the solver has none.
        texts: ``calibration`` {sha256, tokens, window_tokens, fit_windows, measure_windows} and ``evaluation`` {sha256, tokens,
            window_tokens, windows, shared_windows (how many of those also occur in the calibration text)}.
        refinement: what the refine stage found, whether or not it changed the plan; None where it did not run.
        continuations: a row for each prompt: ``prompt`` and, by name of the model, what it wrote behind it.
        heal: result of the heal stage; None where the plan was not healed. ``plan`` is the closed form's row either way, and
            ``healed`` the row of what is delivered: the same ranks, whose curves predict nothing for weights that were trained.
    """
    measured = {result["name"]: result for result in evaluated}
    dense_nll = measured[DENSE]["evaluation_nll_nats"]
    dense_windows = measured[DENSE].get("evaluation_window_nats", [])

    def row(name: str, costs: dict[str, int], predicted: float | None) -> dict[str, Any]:
        result = measured[name]
        nll = result["evaluation_nll_nats"]
        found = {**costs, "evaluation_nll_nats": nll, "evaluation_perplexity": perplexity(nll)}
        if name == DENSE:
            return found
        # Window by window: what both models find hard cancels out.
        windows = result.get("evaluation_window_nats", [])
        same = len(windows) == len(dense_windows)  # an earlier version's item may have stored none
        rises = [mine - dense for mine, dense in zip(windows, dense_windows, strict=True)] if same else []
        return {
            **found,
            "predicted_loss_nats": predicted,
            "measured_loss_nats": result["measured_loss_nats"],
            "measured_stderr_nats": result["measured_stderr_nats"],
            "top1_agreement": result.get("top1_agreement"),
            "evaluation_rise_nats": nll - dense_nll,
            "evaluation_rise_stderr_nats": mean_and_stderr(rises)[1] if rises else None,
        }

    baseline = {
        name: {"ranks": entry.chosen.layers(), **row(name, entry.costs, entry.predicted_loss_nats)}
        for name, entry in plan.baseline.items()
        if name in measured
    }
    paper = {}
    if plan.solver == PAPER.name and UNIFORM_RATIO in baseline:
        paper = {UNIFORM_PAPER: baseline[UNIFORM_RATIO]}
    if UNIFORM_PAPER in measured:
        uniform = plan.baseline[UNIFORM_RATIO]
        # The plan's curves, being another method's, predict nothing for it.
        ranks = uniform.chosen.layers()
        paper = {UNIFORM_PAPER: {"ranks": ranks, **row(UNIFORM_PAPER, uniform.costs, None)}}
    chosen = {"digest": plan.digest, "ranks": plan.chosen.layers()}
    healed = {} if heal is None else {HEALED: {**chosen, **row(HEALED, plan.costs, None)}}
    return {
        "schema": REPORT_SCHEMA,
        "job": job_id,
        "model": reference,
        "weights_sha256": plan.model.weights_sha256,
        "solver": plan.solver,
        "allocation": plan.allocation,
        "budgets": [budget.document for budget in plan.budgets],
        "request": request,
        **texts,
        DENSE: row(DENSE, plan.dense, None),
        **baseline,
        **paper,
        PLAN: {**chosen, **row(PLAN, plan.costs, plan.predicted.loss_nats)},
        **healed,
        "continuations": continuations or [],
        "certificate": plan.certificate and plan.certificate.document,
        "refinement": refinement if plan.refinement is None else plan.refinement.document,
        "profile": profile,
        "feedback": feedback,
        "heal": heal,
        "timings_s": timings_s,
        "files": files,
    }
