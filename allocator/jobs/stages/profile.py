"""Measured losses and analytic curves of one layer: the unit that teams share."""

from __future__ import annotations

from typing import Any

from allocator.curves import measured_ranks
from allocator.geometry import COMPONENTS
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import (
    calibration_text,
    geometry_of,
    job_identity,
    layer_solution,
    open_source,
    prepared,
)
from allocator.profiling.effort import EFFORTS
from allocator.settings import Settings
from allocator.store import Store


class Profile:
    """One item per layer whose unit the team does not have."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        key = job_identity(job)
        units = {layer: key.unit_key(layer) for layer in range(prepared(job)["geometry"]["layers"])}
        known = store.units.get_many(job.team, list(units.values()))
        return [
            ItemSpec(f"layer-{layer}", {"layer": layer}) for layer, unit in units.items() if unit not in known
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        layer, job = context.payload["layer"], context.job
        unit_key = job_identity(job).unit_key(layer)
        if context.store.units.get_many(job.team, [unit_key]):
            return {"layer": layer, "forward_passes": 0}  # another job measured it meanwhile
        unit = self._measure(context, layer)
        context.store.units.put(job.team, unit_key, unit)
        return {"layer": layer, "forward_passes": unit["forward_passes"]}

    def _measure(self, context: StageContext, layer: int) -> dict[str, Any]:
        import torch

        from allocator.profiling.measure import Variant, measure_layer
        from solvers.writing import stored

        geometry = geometry_of(context.job)
        effort = EFFORTS[context.job.request.get("effort") or "standard"]
        dtype = getattr(torch, prepared(context.job)["storage_dtype"])
        opened, text = open_source(context), calibration_text(context)
        solution = layer_solution(context, opened, layer)
        ranks = {c: measured_ranks(geometry.candidate_ranks(c), effort.points) for c in COMPONENTS}
        # Cut weights pass through the checkpoint's type first: the loss includes what storing them costs.
        variants = [
            Variant(c, rank, stored(solution.compressed(**{c: rank}), dtype))
            for c in COMPONENTS
            for rank in ranks[c]
        ]
        windows = text.measure(effort.measure_windows)
        measured = measure_layer(
            opened, layer, variants, windows, lambda done, total: context.progress(done, total, "passes")
        )
        losses = {c: solution.losses(c).tolist() for c in COMPONENTS}
        return {
            "layer": layer,
            "forward_passes": len(variants) + 1,
            "components": {
                c: {
                    "ranks": geometry.candidate_ranks(c),
                    "analytic": [
                        0.0 if c in geometry.fixed else losses[c][rank]
                        for rank in geometry.candidate_ranks(c)
                    ],
                    "measured": [vars(point) for point in measured[c]],
                }
                for c in COMPONENTS
            },
        }
