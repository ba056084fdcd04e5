"""The profile document: immutable, named by what it was measured on, made of the team's units."""

from __future__ import annotations

from itertools import chain
from typing import Any

from allocator.base.settings import Settings
from allocator.base.statistics import mean_and_stderr
from allocator.plan.model.curves import build_curve, with_quantized
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.predicted import Part, build_predicted
from allocator.profiling.needs import PLAN, PLAN_RANK
from allocator.stages.inputs import job_identity, method_of_job, prepared
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile import known_units, layers_of
from allocator.store import Store, audit

PROFILE_SCHEMA = "rankalloc.profile/1"


class Assemble:
    """One item; none where a stored plan is applied."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("profile")] if job.request.applies is None else []

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store = context.job, context.store
        facts, key = prepared(job), job_identity(job)
        measured_now, moments_now = job.results.get("profile", []), job.results.get("calibrate", [])
        passes = sum(result["forward_passes"] for result in [*measured_now, *moments_now])
        layers = facts["geometry"]["layers"]
        document = store.profiles.own(job.team, key.profile_key)
        if document is None:
            document = assemble_profile(job, store)
            with store.transaction() as connection:
                if store.profiles.put(job.team, key.profile_key, document):
                    made = {"job": job.id}
                    audit.add(connection, job.team, job.created_by, "made", "profile", key.profile_key, made)
        reused = passes == 0
        if reused:
            message = "profile reused, 0 forward passes"
        elif key.effort.gradient_windows:
            message = f"profile from gradients, {passes} passes"
        elif len(measured_now) < layers:
            message = (
                f"profile: {layers - len(measured_now)} of {layers} layers reused, {passes} forward passes"
            )
        else:
            message = f"profile measured, {passes} forward passes"
        context.event(
            "profile.reused" if reused else "profile.stored",
            message,
            {"profile_key": key.profile_key, "forward_passes": passes},
        )
        measured = [
            part for curve in document["curves"] for part in (curve, *curve.get("quantized", {}).values())
        ]
        repairs = sum(len(part["repairs"]) for part in measured)
        if repairs:
            context.event(
                "profile.repaired", f"{repairs} measured points were moved to make curves monotone."
            )
        return {
            "profile_key": key.profile_key,
            "reused": reused,
            "forward_passes": passes,
            "repairs": repairs,
        }


def assemble_profile(job: JobView, store: Store) -> dict[str, Any]:
    """The document of a job whose units are all measured."""
    facts, key = prepared(job), job_identity(job)
    curves, units, tokens = [], [], 0
    parts: list[Part] = []
    around: dict[str, Any] | None = None
    for layer in layers_of(job):
        known = known_units(job, store, layer)
        units += sorted(known)
        analytic = known[layer.identity.analytic_key(layer.index)]["components"]
        for component in COMPONENTS:
            points = layer.measurements(known, component)
            part = analytic[component]
            if key.effort.gradient_windows:
                predictions = layer.predictions(known, component)
                whole = tuple(part["ranks"]), tuple(part["analytic"])
                latents = {
                    form: tuple(layer.predictions(known, form))
                    for form in method_of_job(job).latent_ranks(layer.geometry)
                    if LATENTS[form] == component
                }
                parts.append(Part(layer.index, component, *whole, tuple(predictions), tuple(points), latents))
                tokens += sum(point.windows for point in points) * facts["window_tokens"]
                continue
            curve = build_curve(layer.index, component, part["ranks"], part["analytic"], points)
            fewer = {bits: layer.measurements(known, component, bits) for bits in key.bits}
            measured = [*points, *chain.from_iterable(fewer.values())]
            tokens += sum(point.windows for point in measured) * facts["window_tokens"]
            curves.append(with_quantized(curve, layer.geometry, fewer).document())
        if key.around is not None and layer.index == 0:
            loss, stderr = mean_and_stderr(layer.values(known, (PLAN, PLAN_RANK)))
            around = {
                "plan": job.request.around,
                "ranks": key.around,
                "loss_nats": loss,
                "stderr_nats": stderr,
            }
    gradients: dict[str, Any] = {}
    if parts:
        built, scales = build_predicted(parts)
        curves = [curve.document() for curve in built]
        gradients = {
            "gradients": {
                "windows": layer.gradient_windows,
                "labels": key.effort.labels,
                "scales": {kind: scale.document() for kind, scale in scales.items()},
            }
        }
    return {
        "schema": PROFILE_SCHEMA,
        "key": key.profile_key,
        "model": {name: facts[name] for name in ("reference", "weights_sha256", "geometry")},
        "solver": facts["solver"],
        "solver_version": key.document["solution"]["solver"],
        "calibration": facts["calibration"],
        "effort": job.request.effort or ("gradient" if key.effort.gradient_windows else "standard"),
        "cost": {**facts["cost"], "measured_tokens": tokens, "units": len(units)},
        "around": around,
        **gradients,
        **({"bits": key.bits} if key.bits else {}),
        "identity": key.document,
        "curves": curves,
    }
