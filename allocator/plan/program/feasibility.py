"""The program before anything is measured: costs without losses. Pure: no torch, no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from allocator.plan.ask.budgets import Budget
from allocator.plan.ask.constraints import parse_constraints, target_of
from allocator.plan.documents.curve import Curve, OfLatent, Quantized
from allocator.plan.metrics.costs import CostModel
from allocator.plan.model.geometry import COMPONENTS, Component, Geometry
from allocator.plan.model.precision import LATENTS, Latent, admissible_ranks
from allocator.plan.program.options import options_of, program_of, refuse_bits
from allocator.plan.program.solve import Group, Row


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
    refuse_bits(bits, limits.target)
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
