"""Runs one item: claims it, works, finishes it. Celery workers and ``compress`` run the same.

Between the claim and the end no transaction is open. The end is one transaction: result, fan-in, next stage
and the messages for it, all under ``WHERE attempt = ...``, so that a worker that was given up cannot change
anything.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from allocator.base import logs
from allocator.base.errors import Cancelled, LeaseLost, RankallocError, StoreUnavailable
from allocator.base.memory import give_back_freed_memory
from allocator.base.settings import Settings
from allocator.jobs.host import disk_full
from allocator.jobs.machine import progression
from allocator.jobs.machine.context import ItemContext, partial_folder
from allocator.jobs.machine.heartbeat import Heartbeat
from allocator.stages import worker_cache
from allocator.store import Item, Job, Store, states
from allocator.store.clock import utcnow

log = logging.getLogger(__name__)

_PANIC = "PanicException"
"""A panic in Rust: every library with pyo3 makes a class of its own, of which only the name is the same."""

_OUTAGE_PAUSE_S = 0.5


class Executor:
    """Executes items for one worker. ``on_update`` is called whenever progress or an event was stored."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        on_update: Callable[[], None] | None = None,
        stalled_s: float | None = None,
    ) -> None:
        """``stalled_s``: how long an item may go without progress; None: any time (``heartbeat.Heartbeat``)."""
        self._store, self._stalled_s = store, stalled_s
        self._settings = settings
        self._owner = settings.worker_id or f"{socket.gethostname()}:{os.getpid()}"
        self._on_update = on_update

    def execute(self, item_id: str, attempt: int | None = None, *, inline: bool = False) -> bool:
        """Claim an item and run it to its end. False: it was not to be had (done, taken, cancelled, not due).

        ``attempt`` is the message's: how often the item had been claimed when the message was written.
        """
        item = self.claim(item_id, attempt, inline=inline)
        if item is None:
            return False
        self.run(item)
        return True

    def claim(self, item_id: str, attempt: int | None = None, *, inline: bool = False) -> Item | None:
        """Take an item for this worker, or None. The first claim of a job makes it running."""
        store = self._store
        candidate = store.items.get(item_id)
        if candidate is None:
            return None
        with store.transaction():
            job = store.jobs.lock(candidate.job_id)
            item = store.items.claim(
                item_id,
                self._owner,
                self._settings.lease_s,
                attempt=attempt,
                inline=inline,
                max_lost_leases=self._settings.max_attempts,
            )
            if item is None:
                return None
            if item.lost_leases > candidate.lost_leases:
                store.events.append(
                    job.id,
                    "item.lost_lease",
                    f"{item.stage}/{item.key}: its worker went silent; another one takes over.",
                    {"stage": item.stage, "item": item.key, "attempt": item.attempt - 1},
                )
            if job.state == states.QUEUED:
                store.jobs.change(job.id, was=job.state, state=states.RUNNING, started_at=utcnow())
            store.events.append(
                job.id,
                "item.started",
                f"{item.stage}/{item.key} has started.",
                {"stage": item.stage, "item": item.key, "attempt": item.attempt},
            )
        self._updated()
        return item

    def run(self, item: Item) -> None:
        """Do the work of a claimed item and store how it ended."""
        with logs.bound(job=item.job_id, stage=item.stage, item=item.key, attempt=item.attempt):
            log.info("started")
            self._run(item)
            log.info("ended")

    def _run(self, item: Item) -> None:
        from allocator.stages.registry import STAGES

        store = self._store
        try:
            view = progression.view(store, store.jobs.by_id(item.job_id), before=item.stage)
            with Heartbeat(store, item, self._settings.lease_s, self._stalled_s) as heartbeat:
                context = ItemContext(store, self._settings, view, item, heartbeat, self._on_update)
                try:
                    result = STAGES[item.stage].run(context)
                except BaseException:
                    worker_cache.forget()  # it may have been stopped amid an exchange of layers
                    raise
                finally:
                    context.remove_temporary()
                    give_back_freed_memory()
            self._through_outage(lambda: self.finish(item, result))
            context.remove_released()
            if store.jobs.by_id(item.job_id).state in states.TERMINAL:
                worker_cache.forget()  # whoever waits for work should not sit on memory
        except LeaseLost as error:
            log.warning("job %s: %s The work is discarded.", item.job_id, error.detail)
        except Cancelled:
            self._close(
                item, lambda: store.items.finish(item.id, item.attempt, states.CANCELLED), lambda job: None
            )
        except StoreUnavailable as error:
            # An outage is nobody's mistake. If it lasts, this raises again and the lease runs out.
            log.warning("job %s: %s/%s: %s", item.job_id, item.stage, item.key, error.detail)
            self._retry_or_give_up(item, error)
        except RankallocError as error:
            document = progression.error_document(error, stage=item.stage, item=item.key)
            self._give_up(item, document)
        except Exception as error:
            self._failed(item, error)
        except BaseException as error:
            # The panic of a library in Rust is no Exception; taken for a stop it would come back for ever.
            if type(error).__name__ == _PANIC:
                self._failed(item, error)
            else:
                # The process is being stopped: hand the item back, so that nobody has to wait for the lease.
                self._release(item)
                raise
        finally:
            self._remove_partial(item.job_id)
            self._updated()

    def _remove_partial(self, job_id: str) -> None:
        """Remove the partial results of an ended job. Where it ends otherwise, ``cleanup`` does."""
        with suppress(StoreUnavailable):
            over = self._store.jobs.by_id(job_id).state in states.TERMINAL
            # Whoever still runs one of its items has mapped these files, and will be the last.
            if over and not self._store.items.in_hand(job_id):
                shutil.rmtree(partial_folder(self._settings, job_id), ignore_errors=True)

    def _failed(self, item: Item, error: BaseException) -> None:
        """An error that nobody foresaw: its trace goes to the log, and the item is tried again."""
        log.exception("job %s: attempt %d of %s/%s failed", item.job_id, item.attempt, item.stage, item.key)
        self._retry_or_give_up(item, error)

    def finish(self, item: Item, result: dict[str, Any]) -> None:
        """Store an item's result and let the job go on. Raises LeaseLost where the item is not this
        attempt's.
        """
        store = self._store
        with store.transaction():
            job = store.jobs.lock(item.job_id)
            if not store.items.finish(item.id, item.attempt, states.SUCCEEDED, result=result):
                raise LeaseLost(f"Attempt {item.attempt} of {item.stage}/{item.key} came too late.")
            store.events.append(
                job.id,
                "item.finished",
                f"{item.stage}/{item.key} has finished.",
                {"stage": item.stage, "item": item.key, "attempt": item.attempt},
            )
            progression.advance(store, self._settings, job, finished_stage=item.stage)

    def _retry_or_give_up(self, item: Item, error: BaseException) -> None:
        store = self._store
        full = disk_full.storage_full(error, self._settings)
        document = (
            progression.error_document(full)
            if full is not None
            else progression.internal_document(error, where=f"running {item.stage}/{item.key}")
        )
        failures = item.failures + 1
        if failures >= self._settings.max_attempts:
            document["detail"] = f"{item.stage}/{item.key} failed {failures} times: {document['detail']}"
            self._give_up(item, {**document, "stage": item.stage, "item": item.key})
            return
        # Spread, so that what failed together does not come back together.
        delay_s = self._settings.retry_backoff_s * 2 ** (failures - 1) * random.uniform(1.0, 1.25)  # noqa: S311

        def announce(job: Job) -> None:
            store.events.append(
                job.id,
                "item.retrying",
                f"{item.stage}/{item.key} failed ({type(error).__name__}); next try in {delay_s:.1f} s.",
                {"stage": item.stage, "item": item.key, "attempt": item.attempt, "failures": failures},
            )

        values = {"failures": failures, "error": document}
        self._close(
            item, lambda: store.items.requeue(item.id, item.attempt, delay_s=delay_s, **values), announce
        )

    def _give_up(self, item: Item, document: dict[str, Any]) -> None:
        store = self._store
        self._close(
            item,
            lambda: store.items.finish(item.id, item.attempt, states.FAILED, error=document),
            lambda job: progression.fail(store, job, document),
        )

    def _release(self, item: Item) -> None:
        self._close(item, lambda: self._store.items.requeue(item.id, item.attempt), lambda job: None)

    def _close(self, item: Item, change: Callable[[], bool], then: Callable[[Job], None]) -> None:
        """One transaction: change the item if it is still this attempt's, and what follows if the job goes
        on.
        """
        self._through_outage(lambda: self._close_now(item, change, then))

    def _close_now(self, item: Item, change: Callable[[], bool], then: Callable[[Job], None]) -> None:
        with self._store.transaction():
            job = self._store.jobs.lock(item.job_id)
            if not change():
                log.warning("job %s: %s/%s went to another attempt", item.job_id, item.stage, item.key)
            elif job.state in states.OPEN:
                then(job)
            else:
                self._store.items.cancel_queued(job.id)
                if job.state == states.CANCELLING:
                    progression.settle_cancel(self._store, job)

    def _through_outage(self, store_end: Callable[[], None]) -> None:
        """Store how an item ended, again and again while the database does not answer: the work is done, and the fence
        refuses what was stored the first time, or came too late.
        """
        deadline = time.monotonic() + self._settings.outage_s
        while True:
            try:
                return store_end()
            except StoreUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("the end of an item waits for the database: %s", error.detail)
                time.sleep(_OUTAGE_PAUSE_S)

    def _updated(self) -> None:
        if self._on_update is not None:
            self._on_update()
