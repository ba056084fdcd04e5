"""Second moments of the dense model, shard by shard of the fit windows. Folders are content-named and shared by all jobs."""

from __future__ import annotations

from typing import Any

from allocator.jobs.context import sync
from allocator.jobs.pipeline import ItemSpec, JobView, StageContext
from allocator.jobs.stages.inputs import (
    calibration_text,
    job_identity,
    layer_file,
    moments_path,
    open_source,
    prepared,
)
from allocator.profiling.effort import EFFORTS, FIT_SHARD_WINDOWS, fit_shards
from allocator.settings import Settings
from allocator.store import Store

_BATCH_WINDOWS = 8


class Calibrate:
    """One item per shard whose moments are not on disk; none where the job needs no moments."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        facts, key = prepared(job), job_identity(job)
        units = [key.unit_key(layer) for layer in range(facts["geometry"]["layers"])]
        if job.kind != "compress" and len(store.units.get_many(job.team, units)) == len(units):
            return []
        shards = range(fit_shards(facts["calibration"]["fit_windows"]))
        return [
            ItemSpec(f"shard-{shard}", {"shard": shard})
            for shard in shards
            if not moments_path(settings, key, shard).is_dir()
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        from solvers import moments

        shard = context.payload["shard"]
        path = moments_path(context.settings, job_identity(context.job), shard)
        if path.is_dir():
            return {"shard": shard, "forward_passes": 0}
        opened, text = open_source(context), calibration_text(context)
        effort = EFFORTS[context.job.request.get("effort") or "standard"]
        windows = text.fit(effort.fit_windows)[shard * FIT_SHARD_WINDOWS : (shard + 1) * FIT_SHARD_WINDOWS]
        parts = windows.split(_BATCH_WINDOWS)
        done, total = 0, len(parts) * len(opened.source)

        def tick() -> None:
            nonlocal done
            done += 1
            context.progress(done, total, "batches")

        temporary = context.temporary_dir() / path.name
        temporary.mkdir()
        for layer, found in enumerate(moments.by_layer(opened, parts, tick)):
            file = temporary / layer_file(layer)
            moments.save(file, found)
            sync(file)
        sync(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # another job's worker was faster if it is
                raise
        sync(path.parent)
        return {"shard": shard, "forward_passes": 1}
