"""Who measures the cuts of one layer: its solution, and the model around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from allocator.plan.model.geometry import COMPONENTS
from allocator.profiling.needs import PLAN, Cut, LayerNeeds, cut_bits
from allocator.profiling.work import body_windows, head_layers, round_work
from allocator.stages import worker_cache
from allocator.stages.facts import facts_of
from allocator.stages.inputs import calibration_text, open_source
from allocator.stages.pipeline import MeasuringContext
from allocator.stages.profile_units import UnitPayloads
from allocator.stages.solving import layer_solution, surrounding_layer
from allocator.stages.work_progress import WorkProgress

if TYPE_CHECKING:
    from allocator.profiling.measure import Variant
    from solvers.a3.compress import LayerSolution
    from solvers.model.surgery import OpenModel


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
        self, context: MeasuringContext, layer: LayerNeeds, on_pass: Callable[[], None] | None = None
    ) -> None:
        """``on_pass`` takes the place of reporting passes as the item's progress."""
        self._context, self._layer, self._on_pass = context, layer, on_pass
        self._opened: OpenModel = open_source(context, measuring=True)
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
        references, batch = worker_cache.references(), body_windows(windows.shape[1])
        reference = {
            number: references.passes(part[:batch], layer.index, layer.geometry.layers)
            for number, (part, _) in blocks.items()
        }
        work = round_work(layer, cuts_by_block, reference)
        self._progress.total += work.windows
        a_head = head_layers(layer.geometry)
        losses = measure_layer(
            opened,
            layer.index,
            blocks,
            self._on_pass or self._progress.steps(work.windows - work.heads, work.ticks),
            on_head=lambda windows: None if self._on_pass else self._progress.add(windows * a_head),
            surroundings=self._around(),
            references=references,
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
        return lambda layer: surrounding_layer(self._context, self._opened, layer)
