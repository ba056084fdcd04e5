"""The units of a job's profile: those that the team has stored, and those that are missing. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocator.profiling.needs import Cut, LayerNeeds
from allocator.profiling.work import reference_passes, round_work
from allocator.stages.facts import facts_of, geometry_of, job_identity
from allocator.stages.pipeline import JobView
from allocator.store import Store

UnitPayloads = dict[str, dict[str, Any]]
"""Key of a unit -> what was measured."""


def layers_of(job: JobView) -> list[LayerNeeds]:
    """The job's layers, as ``allocator.profiling.needs`` knows them."""
    geometry, windows = geometry_of(job), facts_of(job)["calibration"]["measure_windows"]
    return [LayerNeeds(job_identity(job), geometry, index, windows) for index in range(geometry.layers)]


def stored_units(job: JobView, store: Store, layer: LayerNeeds) -> UnitPayloads:
    """The units that the team has measured of this layer."""
    return store.units.get_many(job.team, layer.keys())


def incomplete_layers(job: JobView, store: Store) -> dict[int, int]:
    """Layers of which something is missing -> what the next round takes, in windows through a layer; none where the profile is
    stored or not needed.
    """
    if job.request.applies is not None or store.profiles.exists(job.team, job_identity(job).profile_key):
        return {}
    missing: list[tuple[LayerNeeds, dict[int, list[Cut]]]] = []
    for layer in layers_of(job):
        units = stored_units(job, store, layer)
        if is_unmeasured(layer, units) or layer.unpredicted(units):
            missing.append((layer, layer.missing(units)))
    reference = reference_passes(layer for layer, cuts in missing if cuts)
    return {
        layer.index: round_work(layer, cuts, dict.fromkeys(cuts, reference.get(layer.index))).windows
        for layer, cuts in missing
    }


def is_unmeasured(layer: LayerNeeds, units: Mapping[str, Any]) -> bool:
    """Whether a layer lacks its analytic curves or losses of cuts."""
    return layer.identity.analytic_key(layer.index) not in units or bool(layer.missing(units))


def unpredicted_layers(job: JobView, store: Store) -> dict[int, list[int]]:
    """Block of windows -> layers whose losses gradients have yet to predict there."""
    layers_by_block: dict[int, list[int]] = {}
    for layer in layers_of(job):
        for block in layer.unpredicted(stored_units(job, store, layer)):
            layers_by_block.setdefault(block, []).append(layer.index)
    return dict(sorted(layers_by_block.items()))
