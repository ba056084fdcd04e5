"""The Celery task: a few lines, and the store each worker process opens once."""

from __future__ import annotations

import signal
from functools import cache
from typing import NoReturn

from celery import Celery

from allocator.base.settings import Settings
from allocator.jobs.host import crash_log
from allocator.jobs.machine.celery_app import TASK
from allocator.jobs.machine.dispatcher import publish_due
from allocator.jobs.machine.executor import Executor
from allocator.jobs.machine.heartbeat import STALLED
from allocator.store import Store, migrate


class ItemStalled(Exception):
    """The item made no progress for ``RANKALLOC_ITEM_TIME_LIMIT_S`` seconds."""


def _stalled(number: int, frame: object) -> NoReturn:
    raise ItemStalled(ItemStalled.__doc__)


def register(app: Celery, settings: Settings) -> None:
    """Give the application its one task."""

    @cache
    def store() -> Store:
        # Inside the task, so in the forked child: connections must not cross the fork.
        return Store.open(settings, patience_s=settings.outage_s)

    @app.task(name=TASK)
    def run_item(item_id: str, attempt: int) -> None:
        # A schema may have been changed for later versions alone while this process was running. Nothing is lost: the
        # message is repeated when it is overdue.
        migrate.check(store().database)
        signal.signal(STALLED, _stalled)
        executor = Executor(store(), settings, stalled_s=settings.item_time_limit_s)
        item = executor.claim(item_id, attempt)
        if item is not None:
            with crash_log.recorded_stderr(settings, item):
                executor.run(item)
        publish_due(store(), settings, app)
