"""Predicted and measured losses and analytic curves: the units that teams share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from allocator.base.devices import fast_products
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.plan.effort import gradient_ranks
from allocator.plan.model.geometry import COMPONENTS
from allocator.profiling.cost import (
    WORK,
    body_windows,
    gradient_work,
    head_layers,
    local_passes,
    made_again,
    round_work,
)
from allocator.profiling.needs import PLAN, Cut, LayerNeeds, cut_bits
from allocator.stages.facts import facts_of, geometry_of, job_identity, method_of_job
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.pipeline import ItemSpec, JobView, StageContext
from allocator.stages.solving import context_layer, layer_solution
from allocator.stages.work_progress import WorkProgress
from allocator.store import Store

if TYPE_CHECKING:
    from allocator.profiling.measure import Variant
    from solvers.a3.compress import LayerSolution
    from solvers.model.surgery import OpenModel

UnitPayloads = dict[str, dict[str, Any]]


def layers_of(job: JobView) -> list[LayerNeeds]:
    """The job's layers, as ``allocator.profiling.needs`` knows them."""
    geometry, windows = geometry_of(job), facts_of(job)["calibration"]["measure_windows"]
    return [LayerNeeds(job_identity(job), geometry, index, windows) for index in range(geometry.layers)]


def stored_units(job: JobView, store: Store, layer: LayerNeeds) -> UnitPayloads:
    """The units that the team has measured of this layer."""
    return store.units.get_many(job.team, layer.keys())


def incomplete(job: JobView, store: Store) -> dict[int, int]:
    """Layers of which something is missing -> what the next round takes, in windows through a layer; none where the profile is
    stored or not needed.
    """
    if job.request.applies is not None or store.profiles.exists(job.team, job_identity(job).profile_key):
        return {}
    windows_by_layer = {}
    for layer in layers_of(job):
        units = stored_units(job, store, layer)
        if _missing(layer, units) or layer.unpredicted(units):
            windows_by_layer[layer.index] = round_work(layer, layer.missing(units)).windows
    return windows_by_layer


def _missing(layer: LayerNeeds, units: Mapping[str, Any]) -> bool:
    return layer.identity.analytic_key(layer.index) not in units or bool(layer.missing(units))


def unpredicted(job: JobView, store: Store) -> dict[int, list[int]]:
    """Block of windows -> layers whose losses gradients have yet to predict there."""
    layers_by_block: dict[int, list[int]] = {}
    for layer in layers_of(job):
        for block in layer.unpredicted(stored_units(job, store, layer)):
            layers_by_block.setdefault(block, []).append(layer.index)
    return dict(sorted(layers_by_block.items()))


class ProfileStage:
    """One item per block of windows that gradients have to predict losses on, one per layer whose cuts are to be measured."""

    def items(self, job: JobView, store: Store, settings: Settings) -> list[ItemSpec]:
        missing = incomplete(job, store)
        if not missing:
            return []
        # Items differ in what they cost: each says beforehand how long its part of the bar is.
        first, latents = layers_of(job)[0], method_of_job(job).latent_ranks(geometry_of(job))
        predicting = [
            ItemSpec(
                f"gradients-{block}",
                {"block": block, "expected": gradient_work(first, block, len(layers), latents), "unit": WORK},
            )
            for block, layers in unpredicted(job, store).items()
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
        if not _missing(layer, units):
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
    missing_layers = unpredicted(job, store).get(block, [])
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


def analytic_unit(layer: LayerNeeds, solution: LayerSolution) -> dict[str, Any]:
    """A layer's analytic losses at all candidate ranks, in each component's own unit."""
    geometry, curves = layer.geometry, {}
    for component in COMPONENTS:
        losses, ranks = solution.losses(component).tolist(), geometry.candidate_ranks(component)
        curves[component] = {
            "ranks": ranks,
            "analytic": [0.0 if component in geometry.fixed else losses[rank] for rank in ranks],
        }
    return {"layer": layer.index, "components": curves}


class LayerMeasurer:
    """One layer's solution and the model around it."""

    def __init__(
        self, context: StageContext, layer: LayerNeeds, on_pass: Callable[[], None] | None = None
    ) -> None:
        """``on_pass`` takes the place of reporting passes as the item's progress."""
        self._context, self._layer, self._on_pass = context, layer, on_pass
        self._opened: OpenModel = open_source(context)
        self._solution: LayerSolution = layer_solution(context, self._opened, layer.index)
        self._progress = WorkProgress(context)

    def analytic(self) -> dict[str, Any]:
        """The unit of the layer's analytic losses."""
        return analytic_unit(self._layer, self._solution)

    def losses(self, cuts_by_block: Mapping[int, list[Cut]]) -> UnitPayloads:
        """Units of these cuts on these blocks."""
        from allocator.profiling.measure import measure_layer

        layer, opened = self._layer, self._opened
        windows = calibration_text(self._context).measure(layer.windows)
        variants = {cut: self._variant(cut) for cuts in cuts_by_block.values() for cut in cuts}
        size = layer.identity.block_windows
        blocks = {
            number: (
                windows[number * size : number * size + layer.block_size(number)],
                [variants[cut] for cut in cuts],
            )
            for number, cuts in cuts_by_block.items()
        }
        work = round_work(layer, cuts_by_block)
        self._progress.total += work.windows
        a_head = head_layers(layer.geometry)
        losses = measure_layer(
            opened,
            layer.index,
            blocks,
            self._on_pass or self._progress.steps(work.windows - work.heads, work.ticks),
            on_head=lambda windows: None if self._on_pass else self._progress.add(windows * a_head),
            context=self._around(),
        )
        return {
            layer.key(cut, number): {
                "layer": layer.index,
                "component": cut[0],
                "rank": cut[1],
                **({} if cut_bits(cut) is None else {"bits": cut_bits(cut)}),
                "block": number,
                "kl_nats": values,
            }
            for number, cuts in cuts_by_block.items()
            for cut, values in zip(cuts, losses[number], strict=True)
        }

    def _variant(self, cut: Cut) -> Variant:
        """The layer with one component at this rank; the others dense, or as in the plan around."""
        import torch

        from allocator.profiling.measure import Variant
        from solvers.checkpoints.writing import stored

        component, rank, bits = cut[0], cut[1], cut_bits(cut)
        around = self._layer.identity.around
        ranks: dict[str, int] = {}
        if around is not None:
            ranks = {c: around[self._layer.index][c] for c in COMPONENTS}
        if component != PLAN:
            ranks[component] = rank
        # Cut weights pass through the checkpoint's type first: the loss includes what storing them costs.
        dtype = getattr(torch, facts_of(self._context.job)["storage_dtype"])
        rounded = {} if bits is None else {component: bits}
        return Variant(component, rank, stored(self._solution.compressed(**ranks), dtype, rounded), bits)

    def _around(self) -> Callable[[int], Any] | None:
        if self._layer.identity.around is None:
            return None
        return lambda layer: context_layer(self._context, self._opened, layer)
