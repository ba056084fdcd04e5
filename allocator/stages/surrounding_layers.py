"""The stage ``surroundings``: the layers of the plan around which a profile is measured, solved once."""

from __future__ import annotations

from typing import Any

from allocator.base.settings import Settings
from allocator.profiling.artifacts import is_published
from allocator.stages.facts import facts_of, job_identity
from allocator.stages.inputs import open_source
from allocator.stages.intermediate import layer_file, surrounding_folder
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile_units import incomplete_layers
from allocator.stages.solving import layer_solution
from allocator.store import Store


class SurroundingsStage:
    """One item per layer that is not on disk; none for a profile around the dense model."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        around = job_identity(job).around
        if around is None or not incomplete_layers(job, store):
            return []
        return [
            ItemSpec(f"layer-{layer}", {"layer": layer})
            for layer in range(len(around))
            if not is_published(surrounding_folder(settings, job_identity(job), layer))
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        import torch

        from allocator.profiling.artifacts import publish_folder
        from solvers.weights import save_layer

        layer, key = context.payload["layer"], job_identity(context.job)
        row = (key.around or [])[layer]
        dtype = getattr(torch, facts_of(context.job)["storage_dtype"])
        solution = layer_solution(context, open_source(context), layer)
        weights = solution.compressed(**{name: row[name] for name in ("qk", "ov", "mlp")})
        temporary = context.temporary_dir() / "surroundings"
        temporary.mkdir(exist_ok=True)
        save_layer(temporary / layer_file(layer), weights.to(dtype=dtype, device="cpu"))
        publish_folder(temporary, surrounding_folder(context.settings, key, layer))
        return {"layer": layer}
