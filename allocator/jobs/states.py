"""The states of a job, and the rules by which they change.

    queued ──> running ──> succeeded | failed | crashed
      │           │
      │           └──> cancelling ──> cancelled
      └──> cancelled | failed

Every change names its rule here or does not happen. Terminal states never change.
"""

from __future__ import annotations

from dataclasses import dataclass

from allocator.base.errors import Conflict

QUEUED, RUNNING, CANCELLING = "queued", "running", "cancelling"
SUCCEEDED, FAILED, CRASHED, CANCELLED = "succeeded", "failed", "crashed", "cancelled"

STATES = (QUEUED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CRASHED, CANCELLED)
TERMINAL = frozenset({SUCCEEDED, FAILED, CRASHED, CANCELLED})
OPEN = frozenset({QUEUED, RUNNING})
"""States in which items may be claimed."""


@dataclass(frozen=True)
class Rule:
    """One allowed change, and what would go wrong if it were looser."""

    name: str
    source: frozenset[str]
    target: str
    prevents: str


RULES = (
    Rule(
        "start",
        frozenset({QUEUED}),
        RUNNING,
        "A job cancelled a moment ago that starts all the same, because a message was on its way.",
    ),
    Rule(
        "succeed",
        frozenset({RUNNING}),
        SUCCEEDED,
        "A cancelled job that turns up as succeeded: once cancelling, the last item's end only cancels.",
    ),
    Rule(
        "fail",
        frozenset({QUEUED, RUNNING}),
        FAILED,
        "An error of an item that was being cancelled anyway, reported instead of the cancellation.",
    ),
    Rule(
        "crash",
        frozenset({QUEUED, RUNNING}),
        CRASHED,
        "An item that kills every worker it meets, passed on for ever.",
    ),
    Rule(
        "ask_to_cancel",
        frozenset({RUNNING}),
        CANCELLING,
        "A worker that goes on writing under a job already called cancelled.",
    ),
    Rule(
        "cancel",
        frozenset({QUEUED, RUNNING, CANCELLING}),
        CANCELLED,
        "A job without a running item that waits in cancelling for somebody to notice.",
    ),
)


def rule(source: str, target: str) -> Rule | None:
    """The rule that allows ``source -> target``; None where none does."""
    return next((rule for rule in RULES if source in rule.source and rule.target == target), None)


def check(source: str, target: str) -> Rule:
    """As `rule`, but raises Conflict where the change is not allowed."""
    found = rule(source, target)
    if found is None:
        raise Conflict(f"A job that is {source} cannot become {target}.")
    return found
