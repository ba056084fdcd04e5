"""What every component may be, what that loses and what it costs: the groups and rows of the integer program.

An option is a rank, and the form in which it is held where there are some: weight bits, latents. Pure: no torch, no store.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from allocator.base.errors import InvalidInput
from allocator.plan.ask.budgets import Budget
from allocator.plan.ask.constraints import Constraints, Place, together
from allocator.plan.documents.curve import Curve
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.precision import LATENTS, Form, Latent, bits_in
from allocator.plan.program.solve import Group, Row
from allocator.plan.targets.registry import PLAIN
from allocator.plan.targets.target import Target

Option = tuple[int, Form]
"""A rank and its form."""
Together = tuple[Option, ...]
"""An option of a block: one for each of its places. Tied places have the same one."""


def refuse_bits(bits: Sequence[int], target: Target) -> None:
    """Raises InvalidInput for bits where the target loads none."""
    if bits and not target.bits:
        allowed = f"none with target {target.name}, which does not load them"
        raise InvalidInput.of("bits", ", ".join(map(str, bits)), allowed, "allowed are")


def options_of(
    curves: Sequence[Curve],
    costs: CostModel,
    limits: Constraints,
    bits: Sequence[int],
    latents: Sequence[Latent] = (),
) -> list[list[Together]]:
    """The options of each block, by rank and then by bytes: the first takes least of every budget."""
    at = {(curve.layer, curve.component): curve for curve in curves}

    def alone(*block: Place) -> list[Option]:
        """Options of one place, or those that tied ones have in common."""
        allowed = limits.allowed[block[0]]
        if not bits and block[0][1] not in {LATENTS[form] for form in latents}:
            return [(rank, None) for rank in allowed]
        common = set.intersection(*(set(at[place].options(bits, latents)) for place in block))
        order = _by_bytes(costs, block[0])
        return sorted((option for option in common if option[0] in set(allowed)), key=order)

    return [
        list(itertools.product(*map(alone, block)))
        if together(block)
        else [(option,) * len(block) for option in alone(*block)]
        for block in limits.blocks()
    ]


def _by_bytes(costs: CostModel, place: Place) -> Callable[[Option], tuple[int, int, int]]:
    memory, (layer, component) = Metric("memory", context=1), place
    return lambda option: (
        option[0],
        costs.cost_of(memory, component, layer, *option),
        -(bits_in(option[1]) or 99),
    )


def program_of(
    curves: Sequence[Curve],
    costs: CostModel,
    budgets: Sequence[Budget],
    limits: Constraints,
    options: Sequence[Sequence[Together]],
) -> tuple[list[Group], list[Row]]:
    """A group for every block: a component, or components that are chosen together."""
    at = {(curve.layer, curve.component): curve for curve in curves}
    groups = [
        Group(
            name=_name(block),
            losses=_block_losses([at[place] for place in block], block_options),
            costs=_option_costs(costs, budgets, block, block_options),
        )
        for block, block_options in zip(limits.blocks(), options, strict=True)
    ]
    ranks = "any ranks" if limits.target is PLAIN else f"any ranks that {limits.target.name} holds"
    rows = [
        Row(
            budget.metric.label, budget.limit(costs), costs.constant(budget.metric), budget.metric.unit, ranks
        )
        for budget in budgets
    ]
    return groups, rows


def _block_losses(curves: Sequence[Curve], options: Sequence[Together]) -> tuple[float, ...]:
    """The loss of each option of a component, or of components chosen together."""
    if len(curves) == 1 and [((rank, None),) for rank in curves[0].ranks] == options:
        return curves[0].loss_nats
    columns = zip(curves, zip(*options, strict=True), strict=True)
    losses_of = [{option: curve.loss_at(*option) for option in set(column)} for curve, column in columns]
    return tuple(
        math.fsum(losses[part] for losses, part in zip(losses_of, option, strict=True)) for option in options
    )


def _option_costs(
    costs: CostModel, budgets: Sequence[Budget], block: Sequence[Place], options: Sequence[Together]
) -> tuple[tuple[int, ...], ...]:
    """The charge of each option of a component, or of components chosen together, to each budget."""

    def alone(budget: Budget, place: Place, column: Sequence[Option]) -> list[int]:
        different = list(dict.fromkeys(column))
        ranks, forms = [rank for rank, _ in different], [form for _, form in different]
        charge = dict(
            zip(different, costs.charges(budget.metric, place[1], place[0], ranks, forms), strict=True)
        )
        return [charge[option] for option in column]

    def shared(budget: Budget) -> list[int]:
        if not together(block):
            return [0] * len(options)
        layer = block[0][0]
        return [costs.shared(budget.metric, layer, qk, ov) for qk, ov in options]

    columns = list(zip(block, zip(*options, strict=True), strict=True))
    return tuple(
        tuple(
            map(
                sum,
                zip(shared(budget), *(alone(budget, *place_column) for place_column in columns), strict=True),
            )
        )
        for budget in budgets
    )


def _name(block: Sequence[Place]) -> str:
    (first, component), (last, _) = block[0], block[-1]
    if together(block):
        return f"layer {first} qk and ov"
    return f"layer {first} {component}" if len(block) == 1 else f"layers {first} to {last} {component}"
