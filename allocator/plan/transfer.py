"""May a profile or a plan of a model be used for a fine-tune of it? Answered from a few losses of the fine-tune. No torch.

A curve of the fine-tune is taken to be the stored one times a factor, which a probe measures at one rank. One factor for all
components changes no plan; what matters is how the factors differ. So the plan is judged by what it costs under the scaled
curves against the best plan under the same scaled curves and budgets.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.stats import spearmanr

from allocator.plan.documents.plan import Plan
from allocator.plan.documents.profile import Profile
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import LATENTS, Latent
from allocator.plan.planning import plan_from_profile, question_of
from allocator.plan.program.problem import predicted_loss

PROBED_LAYERS = 8
"""At most so many layers are probed, evenly spread; three components each."""

REUSE_SPEARMAN, REPLAN_SPEARMAN = 0.95, 0.8
"""Rank correlation of probed with stored losses from which curves count as the same, and as of any use."""
REUSE_SPREAD = 2.5
"""90th over 10th percentile of the factors up to which they count as one factor."""
REUSE_REGRET = 0.1
"""How much worse than the best plan under the scaled curves a plan may be, as a share of that one's loss."""
_FLOOR_NATS = 1e-5
"""Losses below it are noise on both sides."""

REUSE, REPLAN, PROFILE = "reuse", "replan", "profile"
VERDICTS = {
    REUSE: "the stored curves hold up to one common factor; plans made from them may be reused",
    REPLAN: "the curves have shifted; solve for a new plan, on curves scaled by the probes or on a fast profile",
    PROFILE: "the curves are others; profile this model",
}


@dataclass(frozen=True)
class Probe:
    """One loss to measure on the fine-tune, which is stored of the profiled model, in nats/token."""

    layer: int
    component: str
    """Or the latent by which it is cut."""
    rank: int
    stored_nats: float


def choose_probes(profile: Profile, plan: Plan | None = None) -> list[Probe]:
    """One measured point of each component of some layers: nearest to the plan's rank, else in the middle of the curve."""
    geometry = profile.model.geometry
    count = min(PROBED_LAYERS, geometry.layers)
    layers = {round(spot) for spot in np.linspace(0, geometry.layers - 1, count)}
    probes = []
    for curve in profile.curves:
        points = [point for point in curve.cut.measured if point.loss_nats > _FLOOR_NATS]
        if curve.layer not in layers or not points:
            continue
        if plan is None:
            point = points[len(points) // 2]
        else:
            planned = plan.chosen.of(curve.component)[curve.layer]
            point = min(points, key=lambda candidate: abs(candidate.rank - planned))
        probes.append(Probe(curve.layer, curve.cut_form or curve.component, point.rank, point.loss_nats))
    return probes


def judge(
    profile: Profile,
    probes: Sequence[Probe],
    losses: Sequence[float],
    plan: Plan | None = None,
    *,
    same_weights: bool = False,
) -> dict[str, Any]:
    """The verdict on probes and the fine-tune's ``losses`` at them, nats/token."""
    factors = [
        max(value, _FLOOR_NATS) / probe.stored_nats for probe, value in zip(probes, losses, strict=True)
    ]
    logs = [math.log(factor) for factor in factors]
    correlation = (
        float(spearmanr([p.stored_nats for p in probes], losses).statistic) if len(probes) > 2 else 1.0
    )
    low, high = (float(np.exp(np.quantile(logs, share))) for share in (0.1, 0.9))
    curves = {
        "probes": len(probes),
        "spearman": correlation,
        "median_factor": math.exp(statistics.median(logs)),
        "factor_p10": low,
        "factor_p90": high,
    }
    verdict = PROFILE
    if same_weights or (correlation >= REUSE_SPEARMAN and high / low <= REUSE_SPREAD):
        verdict = REUSE
    elif correlation >= REPLAN_SPEARMAN:
        verdict = REPLAN
    result: dict[str, Any] = {
        "same_weights": same_weights,
        "curves": curves,
        "plan": None,
        "probes": [
            {**vars(probe), "found_nats": value, "factor": factor}
            for probe, value, factor in zip(probes, losses, factors, strict=True)
        ],
    }
    if plan is not None:
        result["plan"] = judged = _judge_plan(profile, _factors(probes, logs), plan)
        if verdict != PROFILE:
            verdict = REUSE if judged["regret"] <= REUSE_REGRET else REPLAN
    return {"verdict": verdict, "why": VERDICTS[verdict], **result}


def transferred_plan(
    profile: Profile,
    probes: Sequence[Probe],
    losses: Sequence[float],
    plan: Plan,
    *,
    reference: str,
    weights_sha256: str,
) -> Plan:
    """The plan for a fine-tune that may reuse ``plan``: the same ranks, losses by scaled curves, a digest of its own.

    Prices and proofs were those of other curves and are left out; ``transfer`` says where it comes from. On the same weights
    it is the plan itself.
    """
    if weights_sha256 == plan.model.weights_sha256:
        return plan
    logs = [
        math.log(max(value, _FLOOR_NATS) / probe.stored_nats)
        for probe, value in zip(probes, losses, strict=True)
    ]
    question = question_of(plan, scaled_profile(profile, _factors(probes, logs)))
    former = {name: getattr(plan.model, name) for name in ("reference", "weights_sha256")}
    return (
        plan.without("refinement", "shared_by")
        .replaced(
            model=plan.model.replaced(reference=reference, weights_sha256=weights_sha256),
            budgets=tuple(
                row.replaced(binding=None, shadow_price=None, shadow_price_text=None) for row in plan.budgets
            ),
            predicted={"loss_nats": question.predicted(plan.chosen)},
            certificate=None,
            baseline={
                name: entry.replaced(predicted_loss_nats=question.predicted(entry.chosen))
                for name, entry in plan.baseline.items()
            },
            transfer={
                "plan": plan.digest,
                "model": former,
                "median_factor": math.exp(statistics.median(logs)),
            },
        )
        .named()
    )


def _factors(probes: Sequence[Probe], logs: Sequence[float]) -> Mapping[str, tuple[list[int], list[float]]]:
    """Component -> probed layers and the logarithms of their factors."""
    by_component: dict[str, tuple[list[int], list[float]]] = {}
    for probe, log in sorted(zip(probes, logs, strict=True), key=lambda pair: pair[0].layer):
        component = LATENTS.get(cast(Latent, probe.component), probe.component)
        layers, values = by_component.setdefault(component, ([], []))
        layers.append(probe.layer)
        values.append(log)
    return by_component


def scaled_profile(profile: Profile, factors: Mapping[str, tuple[list[int], list[float]]]) -> Profile:
    """The profile with every curve times its component's factor, between probed layers interpolated in the logarithm."""
    curves = []
    for curve in profile.curves:
        layers, values = factors.get(curve.component, ([0], [0.0]))
        factor = math.exp(float(np.interp(curve.layer, layers, values)))
        losses = tuple(loss * factor for loss in curve.loss_nats)
        latents = {
            form: latent.replaced(loss_nats=tuple(loss * factor for loss in latent.loss_nats))
            for form, latent in curve.latents.items()
        }
        curves.append(curve.replaced(loss_nats=losses, **latents))
    return profile.replaced(curves=tuple(curves))


def _judge_plan(
    profile: Profile, factors: Mapping[str, tuple[list[int], list[float]]], plan: Plan
) -> dict[str, Any]:
    scaled = scaled_profile(profile, factors)
    loss = predicted_loss(scaled.curves, plan.chosen)
    limits = plan.constraints.written
    best = plan_from_profile(scaled, plan.budget_texts, constraints=limits, latency=plan.latency_table)
    least = best.predicted.loss_nats
    return {
        "digest": plan.digest,
        "predicted_nats": plan.predicted.loss_nats,
        "scaled_nats": loss,
        "best_scaled_nats": least,
        "regret": (loss - least) / least if least > 0 else 0.0,
        "changed_components": sum(
            mine != theirs
            for c in COMPONENTS
            for mine, theirs in zip(plan.chosen.of(c), best.chosen.of(c), strict=True)
        ),
    }
