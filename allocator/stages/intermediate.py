"""Folders of intermediate results: moments, solutions, the layers of a plan that curves are measured around."""

from __future__ import annotations

from pathlib import Path

from allocator.base.settings import Settings
from allocator.methods.registry import METHODS
from allocator.plan.identity import Identity
from allocator.stages.facts import facts_of, job_identity
from allocator.stages.pipeline import JobView


def moments_path(settings: Settings, key: Identity) -> Path:
    """The folder of the moments: there only when complete."""
    return settings.moments_dir / key.moments_key()


def surrounding_folder(settings: Settings, key: Identity, layer: int) -> Path:
    """The folder of one layer of the plan around which a profile is measured."""
    return settings.moments_dir / f"{key.context_key()}-{layer}"


def solved_path(settings: Settings, key: Identity) -> Path:
    """The folder of what solving the layers found: there only when complete."""
    return settings.moments_dir / key.solved_key()


def layer_file(layer: int) -> str:
    """Name of one layer's moments in that folder."""
    return f"layer-{layer}.safetensors"


def needed_folders(job: JobView, settings: Settings) -> set[str]:
    """Names of the intermediate results that an open job may still read."""
    if "prepare" not in job.results or not job.results["prepare"]:
        return set()
    key = job_identity(job)
    names, method = set(), METHODS.get(facts_of(job)["solver"])  # None: a job of another version
    if method is None or method.calibrated:
        names.add(moments_path(settings, key).name)
    if method is None or method.beside_paper:
        names.add(solved_path(settings, key).name)
    if key.around is not None:
        names |= {surrounding_folder(settings, key, layer).name for layer in range(len(key.around))}
    return names
