"""Celery, set up so that a message may be lost, doubled or late. Everything that must hold is in SQL
(`executor`).

No result backend, no chords, no ``.get()``: a message carries ``item_id`` and ``attempt`` and nothing comes
back.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from allocator.base.settings import Settings
from allocator.stages.pipeline import QUEUES

TASK = "rankalloc.run_item"


def make_celery(settings: Settings) -> Celery:
    """The Celery application of these settings. Connects to nothing yet."""
    app = Celery("rankalloc", set_as_current=False)
    app.conf.update(
        task_queues=[Queue(name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # A message counts as handled when its item has ended, not when it was taken ...
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # ... and a worker takes no more than it works on.
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        # Torch keeps memory it once had; a new child gives it back.
        worker_max_tasks_per_child=100,
        # How long to wait for the result of a child that has died: there will be none.
        worker_lost_wait=1.0,
        # The item goes on: its lease is in SQL, and its message, should it come again, finds the item taken.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        # Cancelling is a flag in the database; remote control would only be one more way in.
        worker_enable_remote_control=False,
        worker_hijack_root_logger=True,
        **_broker(settings),
    )
    return app


def publish(app: Celery, item_id: str, attempt: int, queue: str) -> None:
    """Send one wake-up call to one of ``QUEUES``. Raises what the broker's client raises (see `dispatcher`)."""
    app.send_task(TASK, kwargs={"item_id": item_id, "attempt": attempt}, queue=queue, retry=False)


def _broker(settings: Settings) -> dict[str, Any]:
    if settings.embedded_broker:
        messages = settings.queue_dir / "messages"
        messages.mkdir(parents=True, exist_ok=True)
        return {
            # The host is not used; without one kombu warns.
            "broker_url": "filesystem://localhost//",
            "broker_transport": "allocator.jobs.machine.broker:Transport",
            "broker_transport_options": {
                "data_folder_in": str(messages),
                "data_folder_out": str(messages),
                "control_folder": str(settings.queue_dir / "control"),
                "polling_interval": 0.05,
            },
        }
    # Imported only where there is a Redis.
    from allocator.jobs.machine import redis_broker

    redis_broker.mend()
    return {
        "broker_url": settings.broker_url,
        "broker_transport_options": {
            "visibility_timeout": settings.visibility_timeout_s,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
        },
    }
