"""Second moments of the dense model over the fit windows, and what solving its layers finds, layer by layer in one pass.

Folders are content-named and shared by all jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import UnreadableModel
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.plan.effort import HELD_OUT_WINDOWS, windows_in
from allocator.profiling.artifacts import is_published, publish_folder
from allocator.stages.inputs import (
    calibration_text,
    geometry_of,
    job_identity,
    layer_file,
    moments_path,
    open_source,
    prepared,
    refines,
    solved_path,
)
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile import incomplete
from allocator.stages.solving import layer_moments
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.moments import LayerMoments
    from solvers.surgery import OpenModel

_BATCH_TOKENS = 2048


class Calibrate:
    """One item where moments or solutions are not on disk; none where the job needs neither."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        if job.kind != "compress" and not refines(job) and not incomplete(job, store):
            return []
        return [] if _complete(job, settings) else [ItemSpec("moments")]

    def run(self, context: StageContext) -> dict[str, Any]:
        if _complete(context.job, context.settings):
            return {"forward_passes": 0}
        opened, key = open_source(context), job_identity(context.job)
        path, solved = moments_path(context.settings, key), solved_path(context.settings, key)
        making = not is_published(path)
        new = context.temporary_dir() / "moments" if making else None
        _solve_all(context, opened, new, context.temporary_dir() / "solved")
        if new is not None:
            publish_folder(new, path)
        if (context.temporary_dir() / "solved").is_dir():
            publish_folder(context.temporary_dir() / "solved", solved)
        return {"forward_passes": int(making)}


def _complete(job: JobView, settings: Settings) -> bool:
    key = job_identity(job)
    solved = prepared(job)["solver"] == "a3" or is_published(solved_path(settings, key))
    return is_published(moments_path(settings, key)) and solved


def _solve_all(context: StageContext, opened: OpenModel, new: Path | None, solved: Path) -> None:
    """Write each layer's moments into ``new``, unless they are there already, and what solving finds into ``solved``."""
    import torch

    from solvers import moments
    from solvers import solved as findings
    from solvers.local import Inside
    from solvers.steps import SOLVERS

    facts, text = prepared(context.job), calibration_text(context)
    fit = text.fit(facts["calibration"]["fit_windows"])
    held = text.measure(windows_in(HELD_OUT_WINDOWS, fit.shape[1]))
    size = max(1, _BATCH_TOKENS // fit.shape[1])
    parts, held_parts = fit.split(size), held.split(size)
    solver, geometry = facts["solver"], geometry_of(context.job)
    layers = len(opened.source)
    done, total = 0, layers * (1 + (len(parts) if new is not None else 0))

    def tick() -> None:
        nonlocal done
        done += 1
        context.progress(done, total, "batches")

    if new is not None:
        new.mkdir()
    stream: Iterator[LayerMoments] = (
        moments.by_layer(opened, parts, tick)
        if new is not None
        else (layer_moments(context, layer) for layer in range(layers))
    )
    starts = [opened.start(part) for part in held_parts] if solver != "a3" else []
    hidden = [states for states, _ in starts]
    if starts:
        solved.mkdir()
    for layer, found in enumerate(stream):
        give_back_freed_memory()
        if bad := moments.not_finite(found):
            raise UnreadableModel(
                f"{facts['reference']}: layer {layer}: {bad} is not finite on the calibration text;"
                " activations overflow, so some weights are damaged"
            )
        if new is not None:
            moments.save(new / layer_file(layer), found)
            # As everybody will read them: whoever solves again must find the same.
            found = moments.load(new / layer_file(layer))
        if starts:
            with torch.no_grad():
                inside = [
                    Inside.of(opened, layer, states, calls[layer])
                    for states, (_, calls) in zip(hidden, starts, strict=True)
                ]
            hidden = [each.caught["out"] for each in inside]
            dtype = getattr(torch, facts["storage_dtype"])
            on_device = found.to(opened.device)
            layer_found = findings.solve(
                opened, layer, on_device, SOLVERS[solver], inside, fixed=geometry.fixed, dtype=dtype
            )
            findings.save(solved / layer_file(layer), layer_found)
            tick()
