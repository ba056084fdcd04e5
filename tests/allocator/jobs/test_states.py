"""Every pair of states: exactly the changes that are written down are allowed."""

from __future__ import annotations

import itertools

import pytest

from allocator.base.errors import Conflict
from allocator.store import states

ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("queued", "crashed"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "crashed"),
    ("running", "cancelling"),
    ("running", "cancelled"),
    ("cancelling", "cancelled"),
}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(states.STATES, repeat=2)))
def test_a_change_is_allowed_exactly_if_a_rule_says_so(source: str, target: str) -> None:
    if (source, target) in ALLOWED:
        states.check_change(source, target)
    else:
        with pytest.raises(Conflict):
            states.check_change(source, target)


def test_nothing_leaves_a_terminal_state() -> None:
    assert not any(states.CHANGES[state] for state in states.TERMINAL)
