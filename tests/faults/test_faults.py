"""One round of every fault; ``make faults`` plays many, on either database and broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.faults.audit import Found
from tests.faults.catalogue import NAMES
from tests.faults.registry import Round, Servers, play_all
from tests.support import stages

SEED = 7
ELSEWHERE = {"worker-killed": ("postgresql", "redis"), "broker-lost": ("sqlite", "redis")}
"""Where a round is played that needs neither: production's servers for some."""


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Iterator[dict[str, Found]]:
    """One round of every fault that is asked for, with servers of their own: they are killed and restarted."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.fspath == request.fspath}
    rounds = [Round(name, SEED, *ELSEWHERE.get(name, ("sqlite", "files"))) for name in NAMES if name in asked]
    servers = Servers()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stages.modules().items():
            patch.setitem(sys.modules, name, module)
        try:
            yield {each.name: result for each, result in play_all(rounds, servers)}
        finally:
            servers.remove()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_and_nothing_finished_is_done_again(name: str, found: dict[str, Found]) -> None:
    assert found[name].violations == [], "\n".join(found[name].violations)
    assert found[name].lost_units == 0
