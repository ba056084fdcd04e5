"""The profile document: immutable, named by what it was measured on, made of the team's units."""

from __future__ import annotations

from typing import Any

from allocator.curves import Measurement, build_curve
from allocator.errors import NotFound
from allocator.geometry import COMPONENTS
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import job_identity, prepared
from allocator.settings import Settings
from allocator.store import Store

PROFILE_SCHEMA = "rankalloc.profile/1"


class Assemble:
    """One item."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        return [ItemSpec("profile")]

    def run(self, context: StageContext) -> dict[str, Any]:
        job, store = context.job, context.store
        facts, key = prepared(job), job_identity(job)
        measured_now = job.results.get("profile", [])
        moments_now = job.results.get("calibrate", [])
        passes = sum(result["forward_passes"] for result in [*measured_now, *moments_now])
        layers = facts["geometry"]["layers"]
        try:
            document = store.profiles.get(job.team, key.profile_key)
        except NotFound:
            document = self._assemble(job, store)
            store.profiles.put(job.team, key.profile_key, document)
        reused = passes == 0
        if reused:
            message = "profile reused, 0 forward passes"
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
        repairs = sum(len(curve["repairs"]) for curve in document["curves"])
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

    def _assemble(self, job: JobView, store: Store) -> dict[str, Any]:
        facts, key = prepared(job), job_identity(job)
        keys = [key.unit_key(layer) for layer in range(facts["geometry"]["layers"])]
        units = store.units.get_many(job.team, keys)
        curves = []
        for unit_key in keys:
            unit = units[unit_key]
            for component in COMPONENTS:
                part = unit["components"][component]
                points = [Measurement(**point) for point in part["measured"]]
                curves.append(
                    build_curve(unit["layer"], component, part["ranks"], part["analytic"], points).document()
                )
        return {
            "schema": PROFILE_SCHEMA,
            "key": key.profile_key,
            "model": {name: facts[name] for name in ("reference", "weights_sha256", "geometry")},
            "solver": facts["solver"],
            "solver_version": key.document["solver"],
            "calibration": facts["calibration"],
            "identity": key.document,
            "units": keys,
            "curves": curves,
        }
