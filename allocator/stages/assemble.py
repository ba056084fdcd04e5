"""The profile document: immutable, named by what it was measured on, made of the team's units."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from allocator.base.settings import Settings
from allocator.base.statistics import mean_and_stderr
from allocator.plan.curves.measured import build_curve, with_quantized
from allocator.plan.curves.predicted import build_predicted
from allocator.plan.documents.curve import Curve, LatentSamples, Samples
from allocator.plan.documents.profile import Around, Calibration, Gradients, Model, Profile
from allocator.plan.effort import GRADIENT, STANDARD
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.precision import LATENTS, Latent
from allocator.profiling.needs import PLAN, PLAN_RANK, LayerNeeds
from allocator.stages.facts import facts_of, job_identity, method_of_job
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile_units import layers_of, stored_units
from allocator.store import Store, audit


class AssembleStage:
    """One item; none where a stored plan is applied."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("profile")] if job.request.applies is None else []

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store = context.job, context.store
        facts, key = facts_of(job), job_identity(job)
        measured, moments = job.results.get("profile", []), job.results.get("calibrate", [])
        passes = sum(result["forward_passes"] for result in [*measured, *moments])
        layers = facts["geometry"]["layers"]
        profile = store.profiles.own(job.team, key.profile_key)
        if profile is None:
            profile = assemble_profile(job, store)
            with store.transaction() as connection:
                if store.profiles.put(job.team, profile):
                    origin = {"job": job.id}
                    audit.add(
                        connection, job.team, job.created_by, "made", "profile", key.profile_key, origin
                    )
        reused = passes == 0
        if reused:
            message = "profile reused, 0 forward passes"
        elif key.effort.uses_gradients:
            message = f"profile from gradients, {passes} passes"
        elif len(measured) < layers:
            message = f"profile: {layers - len(measured)} of {layers} layers reused, {passes} forward passes"
        else:
            message = f"profile measured, {passes} forward passes"
        context.event(
            "profile.reused" if reused else "profile.stored",
            message,
            {"profile_key": key.profile_key, "forward_passes": passes},
        )
        repairs = sum(
            len(curve.repairs) + sum(len(quantized.repairs) for quantized in curve.quantized.values())
            for curve in profile.curves
        )
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


def _of_latent(layer: LayerNeeds, units: Mapping[str, dict], form: Latent) -> LatentSamples:
    predicted, measured = layer.predictions(units, form), layer.measurements(units, form)
    return LatentSamples(predicted=tuple(predicted), **({"measured": tuple(measured)} if measured else {}))


def assemble_profile(job: JobView, store: Store) -> Profile:
    """The profile of a job whose units are all measured."""
    facts, key = facts_of(job), job_identity(job)
    curves: list[Curve] = []
    parts: list[Samples] = []
    unit_count, tokens = 0, 0
    optional: dict[str, Any] = {}
    around: Around | None = None
    for layer in layers_of(job):
        units = stored_units(job, store, layer)
        unit_count += len(units)
        analytic = units[layer.identity.analytic_key(layer.index)]["components"]
        for component in COMPONENTS:
            points = layer.measurements(units, component)
            part = analytic[component]
            if key.effort.uses_gradients:
                latents: dict[str, Any] = {
                    form: _of_latent(layer, units, form)
                    for form in method_of_job(job).latent_ranks(layer.geometry)
                    if LATENTS[form] == component
                }
                parts.append(
                    Samples(
                        layer=layer.index,
                        component=component,
                        ranks=tuple(part["ranks"]),
                        analytic=tuple(part["analytic"]),
                        measured=tuple(points),
                        predicted=tuple(layer.predictions(units, component)),
                        **latents,
                    )
                )
                points += [point for samples in latents.values() for point in samples.measured]
                tokens += sum(point.windows for point in points) * facts["window_tokens"]
                continue
            curve = build_curve(layer.index, component, part["ranks"], part["analytic"], points)
            quantized_points = {bits: layer.measurements(units, component, bits) for bits in key.bits}
            measured = [*points, *chain.from_iterable(quantized_points.values())]
            tokens += sum(point.windows for point in measured) * facts["window_tokens"]
            curves.append(with_quantized(curve, layer.geometry, quantized_points))
        if key.around is not None and layer.index == 0:
            loss, stderr = mean_and_stderr(layer.values(units, (PLAN, PLAN_RANK)))
            around = Around.read(
                {
                    "plan": job.request.around,
                    "ranks": key.around,
                    "loss_nats": loss,
                    "stderr_nats": stderr,
                }
            )
    if parts:
        curves, scales = build_predicted(parts)
        optional["gradients"] = Gradients(
            windows=layer.gradient_windows, labels=key.effort.labels, scales=scales
        )
    if key.bits:
        optional["bits"] = tuple(key.bits)
    return Profile(
        schema="rankalloc.profile/1",
        key=key.profile_key,
        model=Model.read({name: facts[name] for name in ("reference", "weights_sha256", "geometry")}),
        solver=facts["solver"],
        solver_version=key.document["solution"]["solver"],
        calibration=Calibration.read(facts["calibration"]),
        effort=job.request.effort or (GRADIENT if key.effort.uses_gradients else STANDARD),
        cost={**facts["cost"], "measured_tokens": tokens, "units": unit_count},
        around=around,
        identity=key.document,
        curves=tuple(curves),
        **optional,
    )
