"""Second moments of the dense model over the fit windows, and what solving its layers finds, layer by layer in one pass.

Folders are content-named and shared by all jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.errors import UnreadableModel
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.plan.effort import HELD_OUT_WINDOWS, windows_in
from allocator.profiling.artifacts import is_published, publish_folder, sync
from allocator.stages.facts import facts_of, geometry_of, job_identity, method_of_job, refines
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.intermediate import layer_file, moments_path, solved_path
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile_units import incomplete_layers
from allocator.stages.solving import stored_moments
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.a3.moments import LayerMoments
    from solvers.model.surgery import OpenModel

_BATCH_TOKENS = 2048


class CalibrateStage:
    """One item where moments or solutions are not on disk; none where the job needs neither."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        if not method_of_job(job).calibrated:
            return []
        if not job.request.compresses and not refines(job) and not incomplete_layers(job, store):
            return []
        return [] if _complete(job, settings) else [ItemSpec("moments")]

    def run(self, context: StageContext) -> dict[str, Any]:
        if _complete(context.job, context.settings):
            return {"forward_passes": 0}
        opened, key = open_source(context), job_identity(context.job)
        path, partial = moments_path(context.settings, key), _partial_folder(context)
        making = not is_published(path)
        new = partial / "moments" if making else None
        solved = partial / "solved" if method_of_job(context.job).beside_paper else None
        _solve_all(context, opened, new, solved)
        if new is not None:
            publish_folder(new, path)
        if solved is not None:
            publish_folder(solved, solved_path(context.settings, key))
        context.let_go(partial)
        return {"forward_passes": int(making)}


def _partial_folder(context: StageContext) -> Path:
    """The folder of the layers that are done, with what earlier attempts have done.

    It carries the attempt's number: one that was given up and lives on finds that its own is gone, and writes into no other.
    """
    names = [f"calibrate-{attempt}" for attempt in range(context.attempt, 0, -1)]
    own, *earlier = (context.partial_dir() / name for name in names)
    for folder in earlier:
        with suppress(FileNotFoundError):
            folder.rename(own)
            break
    for name in ("moments", "solved"):
        (own / name).mkdir(parents=True, exist_ok=True)
    return own


def _complete(job: JobView, settings: Settings) -> bool:
    key = job_identity(job)
    solved = not method_of_job(job).beside_paper or is_published(solved_path(settings, key))
    return is_published(moments_path(settings, key)) and solved


def _solve_all(context: StageContext, opened: OpenModel, new: Path | None, solved: Path | None) -> None:
    """Write each layer's moments into ``new``, unless they are there already (None), and what solving finds into ``solved``,
    unless there is nothing to find. The layers that are done are only run through.
    """
    import torch

    from solvers.a3 import moments
    from solvers.a3 import solved as findings
    from solvers.a3.local import Inside

    facts, text = facts_of(context.job), calibration_text(context)
    fit = text.fit(facts["calibration"]["fit_windows"])
    held_out = text.measure(windows_in(HELD_OUT_WINDOWS, fit.shape[1]))
    size = max(1, _BATCH_TOKENS // fit.shape[1])
    parts, held_parts = fit.split(size), held_out.split(size)
    method, geometry = method_of_job(context.job), geometry_of(context.job)
    layers, of_layer = len(opened.source), 1 + (len(parts) if new is not None else 0)
    first = 0
    while first < layers and _is_done(first, new, solved):
        first += 1
    done, total = first * of_layer, layers * of_layer

    def tick() -> None:
        nonlocal done
        done += 1
        context.progress(done, total, "batches")

    if first:
        context.progress(done, total, "batches")
    if first == layers:
        return
    stream: Iterator[LayerMoments] = (
        moments.by_layer(
            opened,
            parts,
            tick,
            first=first,
            on_pass=context.heartbeat,
            forms=tuple(method.latent_ranks(geometry)),
        )
        if new is not None
        else (stored_moments(context, layer) for layer in range(first, layers))
    )
    hidden, calls = opened.starts(held_parts if solved is not None else [])
    for index in range(first):
        opened.through(index, hidden, calls)
    for layer, own_moments in enumerate(stream, start=first):
        give_back_freed_memory()
        if bad := moments.not_finite(own_moments):
            raise UnreadableModel(
                f"{facts['reference']}: layer {layer}: {bad} is not finite on the calibration text;"
                " activations overflow, so some weights are damaged"
            )
        if new is not None:
            _put(context, new / layer_file(layer), moments.save, own_moments)
            # As everybody will read them: whoever solves again must find the same.
            own_moments = moments.load(new / layer_file(layer))
        if solved is not None:
            with torch.no_grad():
                inside = [
                    Inside.of(opened, layer, states, call[layer])
                    for states, call in zip(hidden, calls, strict=True)
                ]
            hidden = [activations.caught["out"] for activations in inside]
            dtype = getattr(torch, facts["storage_dtype"])
            on_device = own_moments.to(opened.device)
            finding = findings.solve(
                opened, layer, on_device, method.solve, inside, fixed=geometry.fixed, dtype=dtype
            )
            _put(context, solved / layer_file(layer), findings.save, finding)
            tick()


def _is_done(layer: int, *folders: Path | None) -> bool:
    """Whether the layer's file is whole in each of these folders."""
    from safetensors import SafetensorError, safe_open

    for path in (folder / layer_file(layer) for folder in folders if folder is not None):
        try:
            with safe_open(path, framework="pt"):  # compares its length with its header
                pass
        except (OSError, SafetensorError):
            return False
    return True


def _put(context: StageContext, target: Path, save: Callable[[Path, Any], None], content: Any) -> None:
    """Write a file that is there whole, and on the disk, or not at all."""
    new = context.temporary_dir() / f"{target.parent.name}-{target.name}"
    save(new, content)
    sync(new)
    new.rename(target)
