"""The context of a running item (`pipeline.StageContext`), the same in a worker and in ``compress``."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from allocator.base.errors import LeaseLost, StoreUnavailable
from allocator.base.memory import give_back_grown_memory
from allocator.base.settings import Settings
from allocator.jobs.machine.heartbeat import Heartbeat
from allocator.profiling.artifacts import sync
from allocator.stages.pipeline import JobView
from allocator.store import Item, Store

log = logging.getLogger(__name__)

_PROGRESS_INTERVAL_S = 0.25
_BLOCK = 1 << 20


class ItemContext:
    """`StageContext` for one attempt of one item; every write it makes is fenced by that attempt."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        job: JobView,
        item: Item,
        heartbeat: Heartbeat,
        on_update: Callable[[], None] | None,
    ) -> None:
        self.job = job
        self.store = store
        self.settings = settings
        self._item = item
        self._heartbeat = heartbeat
        self._on_update = on_update
        self._progress_at = 0.0
        self._released: list[Path] = []

    @property
    def item_key(self) -> str:
        return self._item.key

    @property
    def payload(self) -> dict[str, Any]:
        return self._item.payload

    @property
    def attempt(self) -> int:
        return self._item.attempt

    def progress(self, done: int, total: int, unit: str) -> None:
        self.heartbeat()
        now = time.monotonic()
        if done < total and now - self._progress_at < _PROGRESS_INTERVAL_S:
            return
        self._progress_at = now
        try:
            self._heartbeat.beat((done, total, unit))
        except StoreUnavailable as error:
            # No work is lost for want of a progress bar; the lease is the heartbeat's to keep.
            log.warning(
                "progress of %s/%s was not stored: %s", self._item.stage, self._item.key, error.detail
            )
        self._heartbeat.check()
        if self._on_update is not None:
            self._on_update()

    def heartbeat(self) -> None:
        give_back_grown_memory()
        self._heartbeat.moved()
        self._heartbeat.check()

    def event(self, type: str, message: str, data: dict[str, Any] | None = None) -> None:
        with self._fenced():
            self.store.events.append(self.job.id, type, message, data)
        if self._on_update is not None:
            self._on_update()

    def link(self, **columns: str) -> None:
        with self._fenced():
            self.store.jobs.link(self.job.id, **columns)

    def artifact_dir(self) -> Path:
        folder = self.settings.artifacts_dir / self.job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def temporary_dir(self) -> Path:
        folder = self.settings.tmp_dir / f"{self._item.id}-{self._item.attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def partial_dir(self) -> Path:
        folder = partial_folder(self.settings, self.job.id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def let_go(self, folder: Path) -> None:
        self._released.append(folder)

    def publish_artifact(self, source: Path, name: str) -> None:
        assert ".." not in Path(name).parts, f"not an artifact name: {name}"
        assert not Path(name).is_absolute(), f"not an artifact name: {name}"
        files = {path: _sync_and_hash(path) for path in _files(source)}
        _sync_folders(source)
        target = self.artifact_dir() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        recorded = {
            target / path.relative_to(source) if path != source else target: size_and_hash
            for path, size_and_hash in files.items()
        }
        if target.exists():
            # What goes is first forgotten: whenever this process dies, no row speaks of other bytes than the file's.
            with self._fenced():
                self.store.artifacts.forget(self.job.id, name)
        # Renamed while the item's row is locked: an attempt that lost its lease cannot replace its
        # successor's file.
        with self._fenced():
            if target.exists():
                os.rename(target, self.temporary_dir() / f"replaced-{time.monotonic_ns()}")
            os.rename(source, target)
            sync(target.parent)
            for path, (size, sha256) in recorded.items():
                self.store.artifacts.add(
                    self.job.team,
                    self.job.id,
                    path.relative_to(self.artifact_dir()).as_posix(),
                    size,
                    sha256,
                    path.relative_to(self.settings.artifacts_dir).as_posix(),
                )

    def remove_temporary(self) -> None:
        """Remove this attempt's scratch folder and those that dead attempts of the item left."""
        for attempt in range(1, self._item.attempt + 1):
            shutil.rmtree(self.settings.tmp_dir / f"{self._item.id}-{attempt}", ignore_errors=True)

    def remove_released(self) -> None:
        """To be called when the item's result is stored: before, another attempt could still need it."""
        for folder in self._released:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """A transaction that holds the job's lock and has made sure that the item is still this attempt's."""
        item = self._item
        with self.store.transaction():
            self.store.jobs.lock(item.job_id)
            if not self.store.items.owns(item.id, item.attempt):
                raise LeaseLost(f"Attempt {item.attempt} of {item.stage}/{item.key} lost its lease.")
            yield


def partial_folder(settings: Settings, job_id: str) -> Path:
    """The folder that is a job's ``partial_dir``."""
    return settings.partial_dir / job_id


def _files(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield from sorted(path for path in source.rglob("*") if path.is_file())
    else:
        yield source


def _sync_and_hash(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, after it has reached the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        os.fsync(file.fileno())
        return file.tell(), digest.hexdigest()


def _sync_folders(source: Path) -> None:
    if source.is_dir():
        for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
            sync(folder)
