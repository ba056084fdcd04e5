"""Lets go of intermediate results that no open job needs (the rule is in ``allocator.profiling.artifacts.prune``)."""

from __future__ import annotations

from allocator.base.settings import Settings
from allocator.jobs.host.cleanup import sweep
from allocator.jobs.machine import progression
from allocator.profiling.artifacts import PublishedFolder, prune
from allocator.stages.kinds import SEQUENCES
from allocator.store import Store


def clean(store: Store, settings: Settings, *, dry_run: bool = False) -> list[PublishedFolder]:
    """Remove what retention lets go of; returns it. Harmless beside running jobs.

    Args:
        dry_run: only say what would go.
    """
    from allocator.stages.intermediate import needed_folders

    needed: set[str] = set()
    for job in store.jobs.unfinished():
        needed |= needed_folders(progression.view(store, job, before=SEQUENCES[job.kind][-1]), settings)
    if not dry_run:
        sweep(store, settings)
    return prune(settings, needed, dry_run=dry_run)
