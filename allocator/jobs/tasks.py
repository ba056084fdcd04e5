"""The Celery task: three lines, and the store each worker process opens once."""

from __future__ import annotations

from functools import cache

from celery import Celery

from allocator.jobs.celery_app import TASK
from allocator.jobs.dispatcher import publish_due
from allocator.jobs.executor import Executor
from allocator.settings import Settings
from allocator.store import Store


def register(app: Celery, settings: Settings) -> None:
    """Give the application its one task."""

    @cache
    def store() -> Store:
        # Inside the task, so in the forked child: connections must not cross the fork.
        return Store.open(settings)

    @app.task(name=TASK)
    def run_item(item_id: str, attempt: int) -> None:
        Executor(store(), settings).execute(item_id, attempt)
        publish_due(store(), settings, app)
