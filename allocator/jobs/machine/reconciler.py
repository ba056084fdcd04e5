"""Mends what deaths leave behind. Harmless to run anywhere, any number of times, at the
same time.
"""

from __future__ import annotations

import logging

from allocator.base.settings import Settings
from allocator.jobs.host import crash_log
from allocator.jobs.machine import progression
from allocator.store import Item, Store, states

log = logging.getLogger(__name__)


def reconcile(store: Store, settings: Settings) -> None:
    """One round: items without a live lease, inline jobs without their process."""
    for item in store.items.orphans():
        give_back(store, settings, item, counts=True, expired=True)
    reconcile_inline(store)


def release(store: Store, settings: Settings, owner: str, *, counts: bool) -> int:
    """Give back what ``owner`` holds, who is known to be dead: sooner than by waiting for its leases.

    ``counts``: whether its death may be the items' fault (it crashed) or not (it was told to stop).
    """
    items = store.items.owned_by(owner)
    for item in items:
        give_back(store, settings, item, counts=counts)
    return len(items)


def give_back(store: Store, settings: Settings, item: Item, *, counts: bool, expired: bool = False) -> None:
    """Requeue and announce a running item whose worker is gone; the item of too many dead workers ends its
    job.

    Args:
        expired: leave it alone if its lease has been renewed since ``item`` was read.
    """
    words = crash_log.tail(settings, item)
    with store.transaction():
        job = store.jobs.lock(item.job_id)
        lost = item.lost_leases + counts
        if job.state in states.OPEN and lost >= settings.max_attempts:
            detail = f"{item.stage}/{item.key} lost its worker {lost} times, perhaps for want of memory."
            if words:
                detail += f" The last one wrote at the end: {words[-1]}"
            document = progression.crash_document(detail, stage=item.stage, item=item.key, log_tail=words)
            if store.items.finish(
                item.id, item.attempt, states.CRASHED, expired=expired, lost_leases=lost, error=document
            ):
                progression.fail(store, job, document, states.CRASHED)
        elif job.state in states.OPEN:
            if store.items.requeue(item.id, item.attempt, expired=expired, lost_leases=lost):
                store.events.append(
                    job.id,
                    "item.lost_lease",
                    f"{item.stage}/{item.key}: its worker is gone; the part will be done again.",
                    {"stage": item.stage, "item": item.key, "attempt": item.attempt},
                )
        else:
            ended = store.items.finish(item.id, item.attempt, states.CANCELLED, expired=expired)
            if ended and job.state == states.CANCELLING:
                progression.settle_cancel(store, job)
    end = "; its worker wrote at the end:\n" + "\n".join(words) if words else ""
    log.info("job %s: %s/%s was given back%s", item.job_id, item.stage, item.key, end)


def reconcile_inline(store: Store) -> None:
    """Call inline jobs crashed (or cancelled, if that was asked for) whose process has gone."""
    for job_id in store.jobs.abandoned_inline():
        with store.transaction():
            if job_id not in store.jobs.abandoned_inline():
                continue  # another reconciler was quicker, or the process was only slow
            job = store.jobs.lock(job_id)
            if job.state == states.CANCELLING:
                progression.end(store, job, states.CANCELLED, "The job was cancelled.")
                continue
            document = progression.crash_document(
                "The process that ran this job is gone. Run the command again; what was measured is kept."
            )
            progression.fail(store, job, document, states.CRASHED)
