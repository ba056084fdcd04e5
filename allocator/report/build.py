"""The report of a finished compression, from the results of its stages."""

from __future__ import annotations

import math
from typing import Any

from allocator.base.statistics import mean_and_stderr
from allocator.methods.registry import PAPER
from allocator.plan.baselines import UNIFORM_RATIO
from allocator.plan.documents.plan import Plan
from allocator.report.document import REPORT_SCHEMA, Report
from allocator.report.rows import DENSE, HEALED, PLAN, UNIFORM_PAPER

_LARGEST_NLL = 700.0
"""Beyond it the exponential is no number."""


def perplexity(nll: float) -> float:
    """The exponential of a likelihood in nats/token."""
    return math.exp(min(nll, _LARGEST_NLL))


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
) -> Report:
    """The report of a compress job.

    Args:
        reference: the job's own name for the model; the plan may have been made under another.
        evaluated: results of the evaluate stage, by name ``dense``, ``uniform``, ``uniform_kind``, ``plan``, ``healed``,
            ``uniform_a3``.
        profile: as `ProfileUse`.
        timings_s: stage -> seconds.
        files: artifact name -> sha256.
        feedback: as `LayerFeedback`; empty where the solver has none.
        texts: ``calibration`` as `CalibrationText` and ``evaluation`` as `EvaluationText`.
        refinement: result of the refine stage, whether or not it changed the plan; None where it did not run.
        continuations: as `Continuation`.
        heal: result of the heal stage; None where the plan was not healed. ``plan`` is the closed form's row either way, and
            ``healed`` the row of what is delivered: the same ranks, whose curves predict nothing for weights that were trained.
    """
    measured = {result["name"]: result for result in evaluated}
    dense_nll = measured[DENSE]["evaluation_nll_nats"]
    dense_windows = measured[DENSE].get("evaluation_window_nats", [])

    def figures(name: str, costs: dict[str, int]) -> dict[str, Any]:
        nll = measured[name]["evaluation_nll_nats"]
        return {"costs": costs, "evaluation_nll_nats": nll, "evaluation_perplexity": perplexity(nll)}

    def beside_dense(name: str, costs: dict[str, int], predicted: float | None) -> dict[str, Any]:
        result = measured[name]
        # Window by window: what both models find hard cancels out.
        windows = result.get("evaluation_window_nats", [])
        same = len(windows) == len(dense_windows)  # an earlier version's item may have stored none
        rises = [mine - dense for mine, dense in zip(windows, dense_windows, strict=True)] if same else []
        return {
            **figures(name, costs),
            "predicted_loss_nats": predicted,
            "measured_loss_nats": result["measured_loss_nats"],
            "measured_stderr_nats": result["measured_stderr_nats"],
            "top1_agreement": result.get("top1_agreement"),
            "evaluation_rise_nats": result["evaluation_nll_nats"] - dense_nll,
            "evaluation_rise_stderr_nats": mean_and_stderr(rises)[1] if rises else None,
        }

    baselines = {
        name: {"ranks": entry.ranks, **beside_dense(name, entry.costs, entry.predicted_loss_nats)}
        for name, entry in plan.baseline.items()
        if name in measured
    }
    if plan.solver == PAPER.name and UNIFORM_RATIO in baselines:
        baselines[UNIFORM_PAPER] = baselines[UNIFORM_RATIO]
    if UNIFORM_PAPER in measured:
        # The plan's curves, being another method's, predict nothing for it.
        uniform = plan.baseline[UNIFORM_RATIO]
        baselines[UNIFORM_PAPER] = {
            "ranks": uniform.ranks,
            **beside_dense(UNIFORM_PAPER, uniform.costs, None),
        }
    chosen = {"digest": plan.digest, "ranks": plan.ranks}
    healed = {} if heal is None else {HEALED: {**chosen, **beside_dense(HEALED, plan.costs, None)}}
    return Report.model_validate(
        {
            "schema": REPORT_SCHEMA,
            "job": job_id,
            "model": reference,
            "weights_sha256": plan.model.weights_sha256,
            "solver": plan.solver,
            "allocation": plan.allocation,
            "budgets": plan.budgets,
            "request": request,
            **texts,
            DENSE: figures(DENSE, plan.dense),
            **baselines,
            PLAN: {**chosen, **beside_dense(PLAN, plan.costs, plan.predicted.loss_nats)},
            **healed,
            "continuations": continuations or [],
            "certificate": plan.certificate,
            "refinement": refinement if plan.refinement is None else plan.refinement.document,
            "profile": profile,
            "feedback": feedback,
            "heal": heal,
            "timings_s": timings_s,
            "files": files,
        }
    )
