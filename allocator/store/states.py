"""The states of jobs and items, and the changes that are allowed.

    queued ──> running ──> succeeded | failed | crashed
      │           │
      │           └──> cancelling ──> cancelled
      └──> cancelled | failed | crashed

`Jobs.change` makes no other change. Terminal states never change.
"""

from __future__ import annotations

from enum import StrEnum

from allocator.base.errors import Conflict


class State(StrEnum):
    """A state of a job; items have all but ``cancelling``."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CRASHED = "crashed"
    CANCELLED = "cancelled"


QUEUED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CRASHED, CANCELLED = State

STATES = tuple(State)
ITEM_STATES = tuple(state for state in State if state is not CANCELLING)
TERMINAL = frozenset({SUCCEEDED, FAILED, CRASHED, CANCELLED})
OPEN = frozenset({QUEUED, RUNNING})
"""States in which items may be claimed."""
UNFINISHED = OPEN | {CANCELLING}

CHANGES: dict[State, frozenset[State]] = {
    # A queued job fails or crashes when the items of its first stage cannot be made.
    QUEUED: frozenset({RUNNING, CANCELLED, FAILED, CRASHED}),
    # It is cancelled at once where no item is running; else a worker would go on writing under a cancelled job.
    RUNNING: frozenset({SUCCEEDED, FAILED, CRASHED, CANCELLING, CANCELLED}),
    # Whatever its last items end with, a job that is being cancelled does not turn up as succeeded or failed.
    CANCELLING: frozenset({CANCELLED}),
    **dict.fromkeys((SUCCEEDED, FAILED, CRASHED, CANCELLED), frozenset()),
}
"""From each state the states that may follow."""


def check_change(source: str, target: str) -> None:
    """Raises Conflict where a job may not change so."""
    if State(target) not in CHANGES[State(source)]:
        raise Conflict(f"A job that is {source} cannot become {target}.")
