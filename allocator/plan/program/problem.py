"""A profile with budgets and constraints, made a program of: every component's options, what they lose and what they cost.

An option is a rank, and the form in which it is held where the profile has measured some: weight bits, latents. Pure: no
torch, no store.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from allocator.base.errors import InvalidInput
from allocator.plan import baselines
from allocator.plan.ask.budgets import Budget
from allocator.plan.ask.constraints import Constraints, Place, parse_constraints, target_of, together
from allocator.plan.documents.curve import Curve, OfLatent, Quantized
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.metrics.metric import Metric
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.precision import LATENTS, Form, Latent, admissible_ranks, bits_in, checked_bits
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.solve import Group, Row
from allocator.plan.targets.registry import PLAIN
from allocator.plan.targets.target import Target

Option = tuple[int, Form]
"""A rank and its form."""
Together = tuple[Option, ...]
"""An option of a block: one for each of its places. Tied places have the same one."""


def predicted_loss(curves: Sequence[Curve], ranks: Ranks, *, offset: float = 0.0) -> float:
    """The surrogate: the sum of single-component losses, nats/token, from ``curve_offset`` on."""
    losses = (curve.loss_at(*ranks.at(curve.layer, curve.component)) for curve in curves)
    return max(math.fsum([offset, *losses]), 0.0)


def curve_offset(profile: Profile) -> float:
    """The constant beside the sum of a profile's curves: 0 around the dense model; around a plan whatever makes the plan's own
    ranks come out at its measured loss.
    """
    if profile.around is None:
        return 0.0
    ranks = profile.around.start
    return profile.around.loss_nats - math.fsum(
        curve.loss_at(ranks.of(curve.component)[curve.layer]) for curve in profile.curves
    )


@dataclass(frozen=True)
class Question:
    """A profile with budgets and constraints, read and made a program of. ``bits`` and ``latents``: those that the program
    may give.
    """

    profile: Profile
    budgets: Sequence[Budget]
    costs: CostModel
    offset: float
    limits: Constraints
    groups: list[Group]
    rows: list[Row]
    options: list[list[Together]]
    """Of every block, aligned with its group."""
    bits: tuple[int, ...] = ()
    latents: tuple[Latent, ...] = ()

    def ranks(self, choice: Sequence[int]) -> Ranks:
        """The ranks that a choice of options stands for, and their bits."""
        chosen = {
            place: option
            for block, options, pick in zip(self.limits.blocks(), self.options, choice, strict=True)
            for place, option in zip(block, options[pick], strict=True)
        }
        layers = range(self.costs.geometry.layers)
        ranks = Ranks(*(tuple(chosen[layer, c][0] for layer in layers) for c in COMPONENTS))
        forms = [[chosen[layer, c][1] for c in COMPONENTS] for layer in layers]
        return ranks.with_bits([list(map(bits_in, row)) for row in forms]).with_latents(
            [[form for form in LATENTS if form in row] for row in forms]
        )

    def choice(self, ranks: Ranks) -> list[int]:
        """The choice of options that stands for allowed ranks."""
        return [
            options.index(tuple(ranks.at(*place) for place in block))
            for block, options in zip(self.limits.blocks(), self.options, strict=True)
        ]

    def in_forms_of(self, ranks: Ranks) -> Question:
        """This question with those options alone that have the forms of ``ranks``: along one curve each."""
        if not self.latents:
            return self
        options = [
            [
                option
                for option in options
                if [form for _, form in option] == [ranks.at(*place)[1] for place in block]
            ]
            for block, options in zip(self.limits.blocks(), self.options, strict=True)
        ]
        groups, rows = program_of(self.profile.curves, self.costs, self.budgets, self.limits, options)
        return replace(self, groups=groups, rows=rows, options=options)

    def predicted(self, ranks: Ranks) -> float:
        """The surrogate's loss, nats/token."""
        return predicted_loss(self.profile.curves, ranks, offset=self.offset)

    @property
    def of_heads(self) -> dict[Place, tuple[int, ...]]:
        """The ranks of heads and neurons that constraints leave of every component; none where they leave a latent alone."""
        whole_curves = {
            (curve.layer, curve.component): curve for curve in self.profile.curves if curve.cut_form
        }
        return {
            place: tuple(
                rank for rank in ranks if place not in whole_curves or rank in whole_curves[place].ranks
            )
            for place, ranks in self.limits.allowed.items()
        }

    def uniform_bits(self) -> Ranks | None:
        """The best uniform ranks in uniform bits; None where none fit."""
        return baselines.uniform_bits(self.costs, self.budgets, self.predicted, self.by_place(), self.bits)

    def by_place(self) -> dict[Place, list[Option]]:
        """The options of every component of every layer."""
        return {
            place: list(dict.fromkeys(option[spot] for option in options))
            for block, options in zip(self.limits.blocks(), self.options, strict=True)
            for spot, place in enumerate(block)
        }


def question(
    profile: Profile,
    budgets: Sequence[Budget],
    constraints: Mapping[str, Sequence[str]] | None = None,
    latency: LatencyTable | None = None,
    bits: Sequence[int] | None = None,
    latents: bool | None = None,
) -> Question:
    """Make the program of a profile.

    Args:
        bits, latents: see ``plan_from_profile``.

    Raises:
        InvalidInput: constraints that cannot be read or met; a latency budget without a table that has it; bits that the
            profile has not measured.
    """
    costs, curves = CostModel(profile.model.geometry, latency, target_of(constraints)), profile.curves
    # Time is measured at the ranks of heads.
    timed = any(budget.metric.kind.timed for budget in budgets)
    refused = timed or latents is False
    forms = () if refused else tuple(form for form in profile.latents if form in costs.target.latents)
    ranks = {(curve.layer, curve.component): curve.choosable(forms) for curve in curves}
    limits = parse_constraints(constraints, costs.geometry, ranks)
    used = _usable(profile, bits, limits.target)
    options = options_of(curves, costs, limits, used, forms)
    groups, rows = program_of(curves, costs, budgets, limits, options)
    offset = curve_offset(profile)
    return Question(profile, budgets, costs, offset, limits, groups, rows, options, used, forms)


def _usable(profile: Profile, bits: Sequence[int] | None, target: Target) -> tuple[int, ...]:
    """The bits asked for, or all that the profile has and the target loads."""
    if not target.bits:
        _refuse_bits(bits or (), target)
        return ()
    measured = profile.bits
    for width in bits or ():
        if width not in measured:
            has = f"has measured {', '.join(map(str, measured))} bits" if measured else "has measured none"
            said = f"profile {profile.key[:12]} {has}, not {width}; use"
            allowed = "bits that the profile was measured in: rankalloc profile MODEL --bits 8,4"
            raise InvalidInput.of("bits", width, allowed, said)
    return tuple(measured) if bits is None else tuple(checked_bits(bits))


def _refuse_bits(bits: Sequence[int], target: Target) -> None:
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


def feasibility_program(
    costs: CostModel,
    budgets: Sequence[Budget],
    constraints: Mapping[str, Sequence[str]] | None = None,
    bits: Sequence[int] = (),
    latents: Mapping[Latent, Sequence[int]] | None = None,
) -> tuple[list[Group], list[Row]]:
    """The program with costs but no losses: enough to say, before anything is measured, whether budgets can be met.

    Args:
        latents: those that the method has, and at which ranks.

    Raises:
        InvalidInput: constraints that cannot be read or met.
    """
    geometry = costs.geometry
    costs = replace(costs, target=target_of(constraints))
    timed = any(budget.metric.kind.timed for budget in budgets)
    forms = {
        form: ranks for form, ranks in (latents or {}).items() if form in costs.target.latents and not timed
    }
    flat = [_flat(geometry, layer, c, bits, forms) for layer in range(geometry.layers) for c in COMPONENTS]
    ranks = {(curve.layer, curve.component): curve.choosable() for curve in flat}
    limits = parse_constraints(constraints, geometry, ranks)
    _refuse_bits(bits, limits.target)
    return program_of(flat, costs, budgets, limits, options_of(flat, costs, limits, bits, tuple(forms)))


def _flat(
    geometry: Geometry,
    layer: int,
    component: Component,
    bits: Sequence[int],
    latents: Mapping[Latent, Sequence[int]],
) -> Curve:
    """A curve without losses."""
    ranks = tuple(geometry.candidate_ranks(component))
    zeros = (0.0,) * len(ranks)
    quantized = {}
    for width in bits:
        if admissible := tuple(admissible_ranks(geometry, component, width)):
            quantized[str(width)] = Quantized(
                ranks=admissible, loss_nats=(0.0,) * len(admissible), measured=()
            )
    of_latents: dict[str, Any] = {
        form: OfLatent(ranks=tuple(of_form), loss_nats=(0.0,) * len(of_form), predicted=())
        for form, of_form in latents.items()
        if LATENTS[form] == component
    }
    return Curve(
        layer=layer,
        component=component,
        full_rank=ranks[-1],
        ranks=ranks,
        analytic=zeros,
        loss_nats=zeros,
        measured=(),
        repairs=(),
        quantized=quantized,
        **of_latents,
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
