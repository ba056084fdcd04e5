"""Removes what dead processes leave: scratch of attempts that are over, partial results of jobs that are, files no row speaks
of, half messages.

A worker removes its own scratch, and that of its item's earlier attempts. What is found here is that of an attempt which
had no successor: the job was cancelled or given up meanwhile.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from allocator.base.settings import Settings
from allocator.jobs.machine import broker
from allocator.store import Store, states

log = logging.getLogger(__name__)

_SCRATCH = re.compile(r"(?P<item>[0-9A-Z]{26})-(?P<attempt>\d+)(\.log)?")
_ENDED_WITHIN_S = 86_400.0
_SETTLED_S = 3600.0


def sweep(store: Store, settings: Settings) -> list[Path]:
    """Remove leftovers; returns them. Harmless beside running jobs."""
    # Listed before the store is asked: whatever was there then belongs to an attempt that the store knows.
    scratch = [path for path in settings.tmp_dir.iterdir() if _is_leftover(path, store)]
    return _removed(
        [*scratch, *_partial(store, settings), *_unrecorded(store, settings), *_half_messages(settings)]
    )


def sweep_partial(store: Store, settings: Settings) -> list[Path]:
    """Remove partial results of jobs that have ended; returns them. Harmless beside running jobs."""
    return _removed(_partial(store, settings))


def _removed(gone: list[Path]) -> list[Path]:
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if gone:
        log.info("removed %d leftovers of dead processes", len(gone))
    return gone


def _is_leftover(path: Path, store: Store) -> bool:
    name = _SCRATCH.fullmatch(path.name)
    if name is None:
        return False
    item = store.items.get(name["item"])
    if item is None:  # of another database, perhaps one in use
        return _age_s(path) > _SETTLED_S
    return not store.items.owns(item.id, int(name["attempt"]))


def _partial(store: Store, settings: Settings) -> list[Path]:
    """Folders of jobs that have ended and of which nobody runs an item; of jobs of another database, perhaps one in use, those
    settled.
    """
    folders = list(settings.partial_dir.iterdir())  # before the store is asked, as above
    states_by_job = store.jobs.states([path.name for path in folders])

    def is_over(path: Path) -> bool:
        if path.name not in states_by_job:
            return _age_s(path) > _SETTLED_S
        return states_by_job[path.name] in states.TERMINAL and not store.items.in_hand(path.name)

    return [path for path in folders if is_over(path)]


def _unrecorded(store: Store, settings: Settings) -> list[Path]:
    """Files of ended jobs that were renamed into place by an attempt which died before it could record them."""
    leftovers = []
    for job_id in store.jobs.ended_within(_ENDED_WITHIN_S):
        folder = settings.artifacts_dir / job_id
        if folder.is_dir():
            recorded = {settings.artifacts_dir / path for path in store.artifacts.paths(job_id)}
            files = [path for path in folder.rglob("*") if not path.is_dir()]
            leftovers += [path for path in files if path not in recorded]
            recorded_folders = {parent for path in recorded for parent in path.parents}
            leftovers += [
                path for path in folder.rglob("*") if path.is_dir() and path not in recorded_folders
            ]
    return leftovers


def _half_messages(settings: Settings) -> list[Path]:
    return [path for path in broker.leftovers(settings.queue_dir / "messages") if _age_s(path) > _SETTLED_S]


def _age_s(path: Path) -> float:
    """Seconds since a file was written; none for one that is gone."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0
