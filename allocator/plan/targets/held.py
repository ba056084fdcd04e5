"""Whether ranks that are there already are ones that a target can hold."""

from __future__ import annotations

from allocator.base.errors import FieldError, InvalidInput
from allocator.plan.model.geometry import COMPONENTS, Geometry
from allocator.plan.model.ranks import Ranks
from allocator.plan.targets.target import Target


def misfit(target: Target, geometry: Geometry, ranks: Ranks) -> str | None:
    """The first component that the target cannot hold, and its rule: ``layer 3 qk has rank 48, and stock holds ...``."""
    if (reason := target.refusal(geometry)) is not None:
        return f"the model is a {geometry.family}, and {target.name} is for {reason}"
    for layer in range(geometry.layers):
        for component in COMPONENTS:
            rank = ranks.of(component)[layer]
            tied = component not in target.ties or rank == ranks.of(component)[0]
            if not (tied and target.holds(geometry, component, rank)):
                return f"layer {layer} {component} has rank {rank}, and {target.name} holds {target.rules[component]}"
    return None


def check_held(target: Target, geometry: Geometry, ranks: Ranks, field: str) -> None:
    """Raises InvalidInput about ``field`` where a plan's ranks are none that the target can hold."""
    if (found := misfit(target, geometry, ranks)) is not None:
        allowed = f"a plan made with --target {target.name}"
        raise InvalidInput(f"{field}: {found}; use {allowed}", fields=[FieldError(field, found, allowed)])
