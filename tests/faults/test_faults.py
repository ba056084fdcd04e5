"""One round of every fault; ``make faults`` plays many, on either database and broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.catalogue import FAULTS, NAMES
from tests.faults.registry import Servers, play

SEED = 7
ELSEWHERE = {"worker-killed": ("postgresql", "redis"), "broker-lost": ("sqlite", "redis")}
"""Where a round is played that needs neither: production's servers for some."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Of its own: they are killed and restarted."""
    servers = Servers()
    yield servers
    servers.remove()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_and_nothing_finished_is_done_again(
    name: str, servers: Servers, scripted: None
) -> None:
    database, broker = ELSEWHERE.get(name, ("sqlite", "files"))
    found = play(FAULTS[name], SEED, servers, database=database, broker=broker)
    assert found.violations == [], "\n".join(found.violations)
    assert found.lost_units == 0
