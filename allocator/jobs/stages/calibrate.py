"""Second moments of the dense model, shard by shard of the fit windows. Folders are content-named and shared by all jobs."""

from __future__ import annotations

from typing import Any

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
from allocator.profiling.effort import FIT_SHARD_WINDOWS, FIT_WINDOWS, fit_shards
from allocator.settings import Settings
from allocator.store import Store

_BATCH_WINDOWS = 8


class Calibrate:
    """One item per shard whose moments are not on disk; none where the job needs no moments."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        facts, key = prepared(job), job_identity(job)
        if job.kind != "compress" and not refines(job) and not incomplete(job, store):
            return []
        shards = range(fit_shards(facts["calibration"]["fit_windows"]))
        return [
            ItemSpec(f"shard-{shard}", {"shard": shard})
            for shard in shards
            if not is_published(moments_path(settings, key, shard))
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers import moments

        shard = context.payload["shard"]
        path = moments_path(context.settings, job_identity(context.job), shard)
        if path.is_dir():
            return {"shard": shard, "forward_passes": 0}
        opened, text = open_source(context), calibration_text(context)
        windows = text.fit(FIT_WINDOWS)[shard * FIT_SHARD_WINDOWS : (shard + 1) * FIT_SHARD_WINDOWS]
        parts = windows.split(_BATCH_WINDOWS)
        done, total = 0, len(parts) * len(opened.source)

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "batches")

        temporary = context.temporary_dir() / path.name
        temporary.mkdir()
        for layer, found in enumerate(moments.by_layer(opened, parts, tick)):
            moments.save(temporary / layer_file(layer), found)
        publish_folder(temporary, path)
        return {"shard": shard, "forward_passes": 1}
