"""Publishes messages for items that wait, and runs the reconciler now and then: beside the API, or as a process of its own."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import closing

from celery import Celery
from kombu.exceptions import KombuError

from allocator.base.errors import StoreUnavailable
from allocator.base.settings import Settings
from allocator.jobs.host.retention import clean
from allocator.jobs.machine.celery_app import make_celery, publish
from allocator.jobs.machine.reconciler import reconcile
from allocator.stages.pipeline import queue_of
from allocator.store import Store, migrate

log = logging.getLogger(__name__)

_MAX_PAUSE_S = 5.0
_CLEAN_INTERVAL_S = 600.0


def publish_due(store: Store, settings: Settings, app: Celery) -> bool:
    """Publish all due messages. False: the broker is down; the jobs concerned say so and their messages wait.

    Two dispatchers at once publish some messages twice, which is harmless.
    """
    while messages := store.wakeups.due():
        published = []
        try:
            for message in messages:
                publish(app, message.item_id, message.attempt, queue_of(message.stage, message.device))
                published.append(message)
        except (KombuError, OSError) as error:
            log.warning("the broker does not answer: %s", error)
            store.jobs.set_queue_reason(
                {message.job_id for message in messages[len(published) :]},
                "The message broker does not answer; the job starts by itself when it is back.",
            )
        store.wakeups.published(published, settings.lease_s)
        if len(published) < len(messages):
            return False
    if waiting := store.jobs.ids_with_queue_reason():
        store.jobs.set_queue_reason(waiting, None)
    return True


def run(settings: Settings) -> None:
    """Dispatch, and nothing else, until SIGINT or SIGTERM.

    Raises:
        SchemaMismatch: the database is at another revision.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with closing(Store.open(settings)) as store:
        dispatcher = Dispatcher(store, settings)
        dispatcher.start()
        stopping.wait()
        dispatcher.stop()


class Dispatcher:
    """The thread in ``serve``, or in ``rankalloc dispatcher``, that publishes and reconciles. `wake` makes it look at once."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._app = make_celery(settings)
        self._wake = threading.Event()
        self._stopping = False
        self._looked_at = time.monotonic()
        self._trusts_leases_at = 0.0
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def looked_s_ago(self) -> float:
        """Seconds since the last round ended, whatever came of it."""
        return time.monotonic() - self._looked_at

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._app.close()

    def _run(self) -> None:
        reconciled_at, cleaned_at = -self._settings.reconcile_interval_s, -_CLEAN_INTERVAL_S
        pause_s = self._settings.dispatch_interval_s
        while not self._stopping:
            try:
                if time.monotonic() - reconciled_at >= self._settings.reconcile_interval_s:
                    # A schema may have been changed for later versions alone while this process was running; until it fits
                    # again, nothing is published.
                    migrate.check(self._store.database)
                    reconciled_at = time.monotonic()
                    self._reconcile()
                if time.monotonic() - cleaned_at >= _CLEAN_INTERVAL_S:
                    cleaned_at = time.monotonic()
                    clean(self._store, self._settings)
                reached = publish_due(self._store, self._settings, self._app)
            except StoreUnavailable as error:
                log.warning("dispatcher: %s", error.detail)
                self._doubt_leases()
                reached = False
            except Exception:
                log.exception("dispatcher: this round failed")
                reached = False
            self._looked_at = time.monotonic()
            # While something is down, ask for it less and less often.
            pause_s = self._settings.dispatch_interval_s if reached else min(2 * pause_s, _MAX_PAUSE_S)
            self._wake.wait(pause_s)
            self._wake.clear()

    def _reconcile(self) -> None:
        """One round, unless leases ran out for want of a database rather than of a worker."""
        began_at = time.monotonic()
        with self._store.transaction():
            # As long as this had to wait, nobody could renew a lease either.
            waited_s = time.monotonic() - began_at
        if waited_s > self._settings.lease_s / 3:
            self._doubt_leases()
        elif time.monotonic() >= self._trusts_leases_at:
            reconcile(self._store, self._settings)

    def _doubt_leases(self) -> None:
        """The database was away: workers get one lease's length to renew theirs before any is given up."""
        self._trusts_leases_at = time.monotonic() + self._settings.lease_s
