"""Whether ranks that are there already are ones that a target can hold."""

from __future__ import annotations

from allocator.base.errors import InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.precision import LATENTS
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.target import Target


def misfit(target: Target, geometry: Geometry, ranks: Ranks) -> str | None:
    """The first component that the target cannot hold, and its rule: ``layer 3 qk has rank 48, and stock holds ...``."""
    if (reason := target.refusal(geometry)) is not None:
        return f"{target.name} cannot serve this model: {reason}"
    if ranks.bits and not target.bits:
        return f"the plan has weight bits, and {target.name} does not load them"
    for layer, latents in enumerate(ranks.latents):
        for form in sorted(latents.difference(target.latents)):
            return f"layer {layer} {LATENTS[form]} is {form}, and {target.name} does not compute that"
    tied = target.ties(geometry)
    for layer in range(geometry.layers):
        for component in COMPONENTS:
            rank = ranks.of(component)[layer]
            unlike = component in tied and rank != ranks.of(component)[0]
            if unlike or not target.holds(geometry, component, rank):
                rule = (target.tie_rules if unlike else target.rules)[component]
                return f"layer {layer} {component} has rank {rank}, and {target.name} holds {rule}"
    return None


def check_held(target: Target, geometry: Geometry, ranks: Ranks, field: str) -> None:
    """Raises InvalidInput about ``field`` where a plan's ranks are none that the target can hold."""
    if (reason := misfit(target, geometry, ranks)) is not None:
        allowed = f"a plan made with --target {target.name}"
        raise InvalidInput.of(field, reason, allowed, f"{reason}; use")
