"""Numbers of parameters: of the whole model, and of what ranks can shrink."""

from __future__ import annotations

from allocator.plan.metrics.counts import Counts
from allocator.plan.metrics.kind import PARAMETERS, Kind, Options
from allocator.plan.model.geometry import Component
from allocator.plan.model.precision import Form


class BlockParams(Kind):
    """Parameters of attention and MLP that a rank shrinks."""

    name = "block_params"
    unit = PARAMETERS
    title = "Block parameters"
    short = "block parameters"
    help = 'Parameters that ranks can shrink: the papers\' ratio, 1 − "20 %".'
    priced = "block parameters"
    example = "block_params=0.8"
    summarized = True

    def cost(
        self, counts: Counts, options: Options, component: Component, layer: int, rank: int, form: Form
    ) -> int:
        return counts.params(component, rank, form)


class Params(BlockParams):
    """Block parameters plus everything that a rank cannot shrink."""

    name = "params"
    title = "All parameters"
    short = "parameters"
    help = "All parameters of the model, tied tensors once."
    priced = "parameters"
    example = "params=0.8"

    def constant(self, counts: Counts, options: Options) -> int:
        return counts.fixed_params
