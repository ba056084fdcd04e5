"""Second moments of the dense model, shard by shard of the fit windows. Folders are content-named and shared by all jobs."""

from __future__ import annotations

from typing import Any

from allocator.errors import UnreadableModel
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import (
    calibration_text,
    job_identity,
    layer_file,
    moments_path,
    open_source,
    prepared,
    refines,
)
from allocator.jobs.stages.profile import incomplete
from allocator.profiling.artifacts import is_published, publish_folder
from allocator.settings import Settings
from allocator.store import Store

_BATCH_TOKENS = 2048


class Calibrate:
    """One item per shard whose moments are not on disk; none where the job needs no moments."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        key = job_identity(job)
        if job.kind != "compress" and not refines(job) and not incomplete(job, store):
            return []
        return [
            ItemSpec(f"shard-{shard}", {"shard": shard})
            for shard in range(key.fit_shards)
            if not is_published(moments_path(settings, key, shard))
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers import moments

        shard, key = context.payload["shard"], job_identity(context.job)
        path = moments_path(context.settings, key, shard)
        if path.is_dir():
            return {"shard": shard, "forward_passes": 0}
        opened, text = open_source(context), calibration_text(context)
        fit = text.fit(prepared(context.job)["calibration"]["fit_windows"])
        parts = fit.split(key.fit_shard_windows)[shard].split(max(1, _BATCH_TOKENS // fit.shape[1]))
        done, total = 0, len(parts) * len(opened.source)

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "batches")

        temporary = context.temporary_dir() / path.name
        temporary.mkdir()
        for layer, found in enumerate(moments.by_layer(opened, parts, tick)):
            if bad := moments.not_finite(found):
                raise UnreadableModel(
                    f"{prepared(context.job)['reference']}: layer {layer}: {bad} is not finite on the calibration text;"
                    " activations overflow, so some weights are damaged"
                )
            moments.save(temporary / layer_file(layer), found)
        publish_folder(temporary, path)
        return {"shard": shard, "forward_passes": 1}
