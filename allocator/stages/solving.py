"""Solving layers for a stage: from stored moments to all ranks of a layer, and from a plan's ranks to all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocator.base.memory import give_back_freed_memory
from allocator.plan.model.precision import bits_of
from allocator.profiling.artifacts import checked_file
from allocator.stages.inputs import (
    calibration_text,
    context_folder,
    job_identity,
    layer_file,
    moments_path,
    prepared,
    solved_path,
)
from allocator.stages.pipeline import StageContext

if TYPE_CHECKING:
    from solvers.compress import LayerSolution
    from solvers.moments import LayerMoments
    from solvers.surgery import OpenModel
    from solvers.weights import LayerWeights


def context_layer(context: StageContext, opened: OpenModel, layer: int) -> LayerWeights:
    """One layer of the plan around which the job profiles, on the model's device."""
    from solvers.weights import load_layer

    folder = context_folder(context.settings, job_identity(context.job), layer)
    return load_layer(checked_file(folder, layer_file(layer))).to(device=opened.device)


def layer_moments(context: StageContext, layer: int) -> LayerMoments:
    """One layer's moments."""
    from solvers import moments

    path = moments_path(context.settings, job_identity(context.job))
    return moments.load(checked_file(path, layer_file(layer)))


def layer_solution(
    context: StageContext, opened: OpenModel, layer: int, solver: str | None = None
) -> LayerSolution:
    """All ranks of one layer, by the job's solver or another. What the calibration found is used, not found again."""
    from solvers import solved as findings
    from solvers.steps import SOLVERS

    own = prepared(context.job)["solver"]
    steps = SOLVERS[solver or own]
    known = None
    if (solver or own) == own and own != "a3":
        folder = solved_path(context.settings, job_identity(context.job))
        known = findings.load(checked_file(folder, layer_file(layer)), opened.device)
    weights = opened.source[layer].to(device=opened.device)
    return findings.solution_of(weights, layer_moments(context, layer).to(opened.device), steps, known)


def compressed_layers(
    context: StageContext, opened: OpenModel, ranks: list[dict[str, Any]], *, solver: str
) -> tuple[list[LayerWeights], list[dict[str, Any]]]:
    """Every layer at its ranks in the checkpoint's type, and how error feedback was damped (empty without it).

    Solved on the model's device, given back on the CPU. Error feedback sees components with bits as torchao will hold them;
    what is given back is not rounded.

    Args:
        ranks: [{layer, qk, ov, mlp, bits}] of all layers in order, as in a plan.
    """
    import torch

    from solvers.feedback import compress_with_feedback
    from solvers.steps import SOLVERS
    from solvers.writing import held_in

    dtype = getattr(torch, prepared(context.job)["storage_dtype"])

    def one_shot(layer: int) -> LayerWeights:
        row = ranks[layer]
        return layer_solution(context, opened, layer, solver).compressed(
            qk=row["qk"], ov=row["ov"], mlp=row["mlp"]
        )

    def on_layer(done: int, total: int) -> None:
        give_back_freed_memory()  # what one layer's moments leave behind is of no size that the next one's fit into
        context.progress(done, total, "layers")

    records: list[dict[str, Any]] = []
    if SOLVERS[solver].feedback:
        windows = calibration_text(context).fit(prepared(context.job)["calibration"]["fit_windows"])
        layers, found = compress_with_feedback(
            opened,
            windows,
            one_shot,
            on_layer,
            keep=lambda weights: weights.to(dtype=dtype, device="cpu"),
            held=held_in([bits_of(row) for row in ranks], dtype),
            on_pass=context.heartbeat,
        )
        records = [record.document() for record in found]
    else:
        layers = []
        for layer in range(len(ranks)):
            layers.append(one_shot(layer).to(dtype=dtype, device="cpu"))
            on_layer(layer + 1, len(ranks))
    return layers, records
