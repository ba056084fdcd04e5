"""Solving layers for a stage: from stored moments to all ranks of a layer, and from a plan's ranks to all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocator.base.memory import give_back_freed_memory
from allocator.methods.registry import METHODS
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.ranks import Ranks
from allocator.profiling.artifacts import checked_file
from allocator.stages.facts import facts_of, job_identity, method_of_job
from allocator.stages.inputs import calibration_text
from allocator.stages.intermediate import layer_file, moments_path, solved_path, surrounding_folder
from allocator.stages.partial_results import FinishedLayers
from allocator.stages.pipeline import MeasuringContext, StageContext

if TYPE_CHECKING:
    from solvers.a3.compress import LayerSolution
    from solvers.a3.moments import LayerMoments
    from solvers.model.surgery import OpenModel
    from solvers.weights import LayerWeights

_NAMED = 16
"""Characters of a solution's key that its folder is named by; the whole key stands in every layer."""


def surrounding_layer(context: MeasuringContext, opened: OpenModel, layer: int) -> LayerWeights:
    """One layer of the plan around which the job profiles, on the model's device."""
    from solvers.weights import load_layer

    folder = surrounding_folder(context.settings, job_identity(context.job), layer)
    return load_layer(checked_file(folder, layer_file(layer))).to(device=opened.device)


def stored_moments(context: MeasuringContext, layer: int) -> LayerMoments:
    """One layer's moments."""
    from solvers.a3 import moments

    path = moments_path(context.settings, job_identity(context.job))
    return moments.load(checked_file(path, layer_file(layer)))


def layer_solution(
    context: MeasuringContext, opened: OpenModel, layer: int, solver: str | None = None
) -> LayerSolution:
    """All ranks of one layer, by the job's solver or another. What the calibration found is used, not found again."""
    from solvers.a3 import solved as findings

    own = method_of_job(context.job)
    method = own if solver is None else METHODS[solver]
    finding = None
    if method is own and own.beside_paper:
        folder = solved_path(context.settings, job_identity(context.job))
        finding = findings.load(checked_file(folder, layer_file(layer)), opened.device)
    weights = opened.source[layer].to(device=opened.device)
    moments = (
        stored_moments(context, layer).to(opened.device) if method.calibrated else method.moments_of(weights)
    )
    return findings.solution_of(weights, moments, method.solve, finding)


PLAN_PLACE = "plan"
"""The place of the solutions that the stages refine and apply share."""


def solution_folder(context: StageContext, ranks: Ranks, solver: str, place: str = PLAN_PLACE) -> Path:
    """The folder in which ``compressed_layers`` keeps the layers of this solution."""
    return context.partial_dir() / f"{place}-{_key(context, ranks, solver)[:_NAMED]}"


def _key(context: StageContext, ranks: Ranks, solver: str) -> str:
    return job_identity(context.job).layers_key(METHODS[solver].version, ranks.layers())


def compressed_layers(
    context: StageContext,
    opened: OpenModel,
    ranks: Ranks,
    *,
    solver: str,
    place: str = PLAN_PLACE,
    on_layer: Callable[[int, int], None] | None = None,
) -> tuple[Sequence[LayerWeights], list[dict[str, Any]]]:
    """Every layer at its ranks in the checkpoint's type, and how error feedback was damped (empty without it).

    Solved on the model's device, given back on the CPU, each read from its file when it is asked for. Error feedback sees
    components with bits as torchao will hold them; what is given back is not rounded.

    Each layer is kept in the job's folder as it is finished: what was interrupted goes on behind it, what was solved before is
    not solved again, and the layers are the same to the last bit.

    Args:
        place: items that may run at once keep their layers in places of their own.
        on_layer: called as (done, total) after each layer; default: layers are the item's progress.
    """
    import torch

    from solvers.a3.feedback import LayerRecord, compress_with_feedback
    from solvers.checkpoints.writing import held_in
    from solvers.weights import OnDemand

    dtype, total = getattr(torch, facts_of(context.job)["storage_dtype"]), len(ranks.qk)
    store = FinishedLayers(
        context, solution_folder(context, ranks, solver, place), _key(context, ranks, solver)
    )

    def one_shot(layer: int) -> LayerWeights:
        ranks_of: dict[str, int] = {}
        for component in COMPONENTS:
            rank, form = ranks.at(layer, component)
            ranks_of[component if form is None or isinstance(form, int) else form] = rank
        return layer_solution(context, opened, layer, solver).compressed(**ranks_of)

    def finished(done: int, total: int) -> None:
        give_back_freed_memory()  # what one layer's moments leave behind is of no size that the next one's fit into
        if on_layer is None:
            context.progress(done, total, "layers")
        else:
            on_layer(done, total)

    layers: list[LayerWeights] = []
    records: list[dict[str, Any]] = []
    while len(layers) < total and (stored := store.get(len(layers))) is not None:
        layers.append(stored[0])
        records.append(stored[1])
        context.heartbeat()
    if METHODS[solver].feedback:
        windows = calibration_text(context).fit(facts_of(context.job)["calibration"]["fit_windows"])
        layers, damped = compress_with_feedback(
            opened,
            windows,
            one_shot,
            finished,
            finished=[
                (weights, LayerRecord.from_document(record))
                for weights, record in zip(layers, records, strict=True)
            ],
            # Not yet in the checkpoint's type: the streams ran on what is stored here.
            keep=lambda weights, record: store.put(record.layer, _as_run(weights, opened), record.document()),
            held=held_in(ranks.widths(), dtype),
            on_pass=context.heartbeat,
        )
        records = [record.document() for record in damped]
    else:
        records = []
        if layers:
            finished(len(layers), total)
        for layer in range(len(layers), total):
            layers.append(store.put(layer, one_shot(layer).to(dtype=dtype, device="cpu")))
            finished(layer + 1, total)
    return OnDemand(total, lambda layer: layers[layer].to(dtype=dtype)), records


def _as_run(weights: LayerWeights, opened: OpenModel) -> LayerWeights:
    """The weights on the CPU, those that solving has left in float64 in the type that the model runs in."""
    import torch

    narrower = {
        name: tensor.to(dtype=opened.model.dtype)
        for name, tensor in weights.tensors().items()
        if tensor.dtype == torch.float64
    }
    return replace(weights, **narrower).to(device="cpu")
