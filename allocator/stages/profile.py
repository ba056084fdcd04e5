"""Predicted and measured losses and analytic curves: the units that teams share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allocator.base.devices import fast_products
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.plan.effort import gradient_ranks
from allocator.plan.model.geometry import COMPONENTS
from allocator.profiling.needs import LayerNeeds
from allocator.profiling.work import WORK, body_windows, gradient_work, head_layers, local_passes, made_again
from allocator.stages.facts import facts_of, geometry_of, job_identity, method_of_job
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.layer_measurer import LayerMeasurer, analytic_unit
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.profile_units import (
    UnitPayloads,
    incomplete_layers,
    is_unmeasured,
    layers_of,
    stored_units,
    unpredicted_layers,
)
from allocator.stages.solving import layer_solution
from allocator.stages.work_progress import WorkProgress
from allocator.store import Store

if TYPE_CHECKING:
    from solvers.a3.compress import LayerSolution


class ProfileStage:
    """One item per block of windows that gradients have to predict losses on, one per layer whose cuts are to be measured."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        missing = incomplete_layers(job, store)
        if not missing:
            return []
        # Items differ in what they cost: each says beforehand how long its part of the bar is.
        first, latents = layers_of(job)[0], method_of_job(job).latent_ranks(geometry_of(job))
        predicting = [
            ItemSpec(
                f"gradients-{block}",
                {"block": block, "expected": gradient_work(first, block, len(layers), latents), "unit": WORK},
            )
            for block, layers in unpredicted_layers(job, store).items()
        ]
        return predicting + [
            ItemSpec(f"layer-{layer}", {"layer": layer, "expected": windows, "unit": WORK})
            for layer, windows in missing.items()
            if windows or not predicting
        ]

    def run(self, context: StageContext) -> dict[str, Any]:
        with fast_products(context.settings):
            if "block" in context.payload:
                return _predict(context, context.payload["block"])
            return self._measure(context)

    def _measure(self, context: StageContext) -> dict[str, Any]:
        job, store = context.job, context.store
        layer = layers_of(job)[context.payload["layer"]]
        units = stored_units(job, store, layer)
        result = {"layer": layer.index, "forward_passes": 0, "measured": 0, "measured_before": 0}
        if not is_unmeasured(layer, units):
            return result  # another job measured it meanwhile
        measurer = LayerMeasurer(context, layer)
        new_units: UnitPayloads = {}
        if (key := layer.identity.analytic_key(layer.index)) not in units:
            new_units[key] = measurer.analytic()
        while True:
            if new_units:
                new = store.units.put_many(job.team, new_units)
                result["measured_before"] += len(new_units) - new
                units |= new_units
            missing = layer.missing(units)
            if not missing:
                return result
            new_units = measurer.losses(missing)
            result["measured"] += len(new_units)
            result["forward_passes"] += len({cut for cuts in missing.values() for cut in cuts}) + 1


def _predict(context: StageContext, block: int) -> dict[str, Any]:
    """Units of all layers that lack them on this block, each stored when it is reached: what dies has lost one layer."""
    import torch

    from allocator.profiling.gradients import predicted_losses

    job, store, facts = context.job, context.store, facts_of(context.job)
    layers, key, geometry = layers_of(job), job_identity(job), geometry_of(job)
    missing_layers = unpredicted_layers(job, store).get(block, [])
    result = {"block": block, "forward_passes": 0, "measured": 0, "measured_before": 0}
    if not missing_layers:
        return result  # another job predicted them meanwhile
    opened = open_source(context)
    size = key.block_windows
    windows = calibration_text(context).measure(layers[0].windows)[block * size : (block + 1) * size]
    ranks: dict[Any, list[int]] = {
        c: gradient_ranks(geometry, key.effort, c) for c in COMPONENTS if c not in geometry.fixed
    }
    latents = method_of_job(job).latent_ranks(geometry)
    ranks |= latents
    solutions: dict[int, LayerSolution] = {}
    a_rank = local_passes(layers[0], latents) / sum(map(len, ranks.values()))
    progress = _PredictionProgress(context, layers[0], len(windows), a_rank)

    def solution(layer: int) -> LayerSolution:
        solutions.clear()
        give_back_freed_memory()
        solutions[layer] = layer_solution(context, opened, layer)
        return solutions[layer]

    for index, losses in predicted_losses(
        opened,
        windows,
        dict.fromkeys(missing_layers, ranks),
        solution,
        labels=key.effort.labels,
        seed=block,
        dtype=getattr(torch, facts["storage_dtype"]),
        on_pass=progress.passed,
        on_rank=progress.predicted,
    ):
        new_units: UnitPayloads = {
            key.gradient_key(index, block): {
                "layer": index,
                "block": block,
                "components": {
                    c: {"ranks": ranks[c], "kl_nats": predicted.losses} for c, predicted in losses.items()
                },
            }
        }
        analytic = key.analytic_key(index)
        if analytic not in stored_units(job, store, layers[index]):
            new_units[analytic] = analytic_unit(layers[index], solutions[index])
        new = store.units.put_many(job.team, new_units)
        result["measured"] += new
        result["measured_before"] += len(new_units) - new
    result["forward_passes"] = 1 + key.effort.labels
    return result


class _PredictionProgress:
    """Progress of predicting losses from gradients: what each step takes, as ``gradient_work`` counts it."""

    def __init__(self, context: StageContext, layer: LayerNeeds, windows: int, a_rank: float) -> None:
        """``a_rank``: what one rank's loss takes, in passes through its layer."""
        self._progress = WorkProgress(context, int(context.payload["expected"]))
        batch = min(windows, body_windows(layer.identity.document["solution"]["window_tokens"]))
        # The vocabulary, once forwards and once for every label, is spread over the passes.
        layers, around = layer.geometry.layers, 1 + layer.effort.labels
        every = around * layers + made_again(layers)
        self._a_pass = batch * (1 + around * head_layers(layer.geometry) / every)
        self._a_rank = windows * a_rank

    def passed(self, passes: int) -> None:
        """A batch has run through one layer, or back, which are several passes."""
        self._progress.add(passes * self._a_pass)

    def predicted(self) -> None:
        """One rank's loss is known."""
        self._progress.add(self._a_rank)
