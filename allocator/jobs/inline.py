"""Runs a whole job in this process: the ``compress`` command. Same items, same executor as the workers'."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.document import EventDocument, JobDocument, event_document, job_document
from allocator.jobs.host.cleanup import sweep_partial
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.reconciler import reconcile_inline
from allocator.jobs.submit import cancel
from allocator.store import Job, Store, states

log = logging.getLogger(__name__)

OnUpdate = Callable[[JobDocument, list[EventDocument]], None]
"""Called with the job's document and the events that are new since the last call."""


def run_inline(store: Store, settings: Settings, job_id: str, on_update: OnUpdate | None = None) -> str:
    """Execute an inline job to its end and return its final state.

    ``on_update`` runs in this thread, between and within items. On Ctrl-C the job is cancelled and
    KeyboardInterrupt goes on to the caller.
    """
    reconcile_inline(store)
    sweep_partial(store, settings)  # of those just called crashed: no service may ever run here
    job = store.jobs.by_id(job_id)
    assert job.inline, "not an inline job"
    report = _Reporter(store, job, on_update)
    executor = Executor(store, settings, on_update=report)
    stop = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(store, settings, job_id, stop), daemon=True)
    beat.start()
    try:
        report()
        while (job := store.jobs.by_id(job_id)).state not in states.TERMINAL:
            assert job.stage is not None
            waiting = [
                item for item in store.items.of_stage(job_id, job.stage) if item.state == states.QUEUED
            ]
            if not any(executor.execute(item.id, inline=True) for item in waiting):
                time.sleep(0.05)  # a retry that is not due yet
    except BaseException:
        cancel(store, team=job.team, job_id=job_id, by=job.created_by)
        sweep_partial(store, settings)
        raise
    finally:
        stop.set()
        beat.join()
        report()
    return job.state


def _keep_alive(store: Store, settings: Settings, job_id: str, stop: threading.Event) -> None:
    while True:
        try:
            store.jobs.renew_inline(job_id, settings.lease_s)
        except StoreUnavailable as error:
            log.warning("job %s: %s", job_id, error.detail)
        if stop.wait(settings.lease_s / 3):
            return


class _Reporter:
    """Hands the job and its new events to ``on_update``."""

    def __init__(self, store: Store, job: Job, on_update: OnUpdate | None) -> None:
        self._store, self._job, self._on_update = store, job, on_update
        self._last_seq = 0

    def __call__(self) -> None:
        if self._on_update is None:
            return
        job = self._store.jobs.by_id(self._job.id)
        new = self._store.events.list(job.team, job.id, after=self._last_seq)
        if new:
            self._last_seq = new[-1].seq
        self._on_update(job_document(self._store, job), [event_document(event) for event in new])
