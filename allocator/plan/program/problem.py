"""A profile with budgets and constraints, made a program of. Pure: no torch, no store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allocator.base.errors import InvalidInput
from allocator.plan import baselines
from allocator.plan.ask.budgets import Budget
from allocator.plan.ask.constraints import Constraints, Place, parse_constraints, target_of
from allocator.plan.documents.curve import Curve
from allocator.plan.documents.profile import Profile
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS
from allocator.plan.model.latency import LatencyTable
from allocator.plan.model.precision import LATENTS, Latent, bits_in, checked_bits
from allocator.plan.model.ranks import Ranks
from allocator.plan.program.options import Option, Together, options_of, program_of, refuse_bits
from allocator.plan.program.solve import Group, Row
from allocator.plan.targets.target import Target


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
        refuse_bits(bits or (), target)
        return ()
    measured = profile.bits
    for width in bits or ():
        if width not in measured:
            has = f"has measured {', '.join(map(str, measured))} bits" if measured else "has measured none"
            said = f"profile {profile.key[:12]} {has}, not {width}; use"
            allowed = "bits that the profile was measured in: rankalloc profile MODEL --bits 8,4"
            raise InvalidInput.of("bits", width, allowed, said)
    return tuple(measured) if bits is None else tuple(checked_bits(bits))
