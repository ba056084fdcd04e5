"""Which faults there are, and one round of one."""

from __future__ import annotations

import random
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.faults.audit import Found, Watch, audit
from tests.faults.world import World
from tests.support.servers import Postgres, Redis

Ends = Mapping[str, set[str]]
"""Job -> the states in which it may have ended; jobs that are not named must succeed."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault; ``inject`` runs a round, returns when all jobs are over."""

    name: str
    inject: Callable[[World], Ends | None]
    database: str | None
    """The only database that has it."""
    broker: str | None

    @property
    def what(self) -> str:
        """One line, for the table."""
        return (self.inject.__doc__ or "").strip().splitlines()[0]


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *, database: str | None = None, broker: str | None = None
) -> Callable[[Callable[[World], Ends | None]], Callable[[World], Ends | None]]:
    """Register a fault under this name."""

    def register(inject: Callable[[World], Ends | None]) -> Callable[[World], Ends | None]:
        FAULTS[name] = Fault(name, inject, database, broker)
        return inject

    return register


class Servers:
    """PostgreSQL and Redis, started when first needed, shared by rounds, removed at the end."""

    def __init__(self) -> None:
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    def postgres(self) -> Postgres:
        self._postgres = self._postgres or Postgres()
        return self._postgres

    def redis(self) -> Redis:
        self._redis = self._redis or Redis()
        return self._redis

    def remove(self) -> None:
        for server in (self._postgres, self._redis):
            if server is not None:
                server.remove()


class Round(NamedTuple):
    """One round of a fault, on the database and broker named unless the fault has its own."""

    name: str
    seed: int
    database: str
    broker: str

    @property
    def alone(self) -> bool:
        """Whether it needs a server, which others may be restarting or emptying."""
        fault = FAULTS[self.name]
        return (fault.database or self.database) == "postgresql" or (fault.broker or self.broker) == "redis"


def play_all(rounds: Iterable[Round], servers: Servers) -> Iterator[tuple[Round, Found]]:
    """Play rounds two at a time, since they mostly wait; yields each as it ends. Rounds that need a server are not played
    beside each other.
    """
    rounds = list(rounds)
    waiting = deque(sorted(rounds, key=lambda each: not each.alone))
    lock, ended = threading.Lock(), SimpleQueue[tuple[Round, Found | BaseException]]()

    def take(*, servers_too: bool) -> Round | None:
        with lock:
            if not waiting or (waiting[-1].alone and not servers_too):
                return None
            return waiting.popleft() if servers_too else waiting.pop()

    def lane(*, servers_too: bool) -> None:
        while (each := take(servers_too=servers_too)) is not None:
            try:
                found: Found | BaseException = play(
                    FAULTS[each.name], each.seed, servers, database=each.database, broker=each.broker
                )
            except BaseException as error:
                found = error
            ended.put((each, found))

    lanes = [threading.Thread(target=lane, kwargs={"servers_too": each}) for each in (True, False)]
    for thread in lanes:
        thread.start()
    try:
        for _ in rounds:
            each, found = ended.get()
            if isinstance(found, BaseException):
                raise found
            yield each, found
    finally:
        waiting.clear()
        for thread in lanes:
            thread.join()


def play(found: Fault, seed: int, servers: Servers, *, database: str, broker: str) -> Found:
    """One round of a fault in a world of its own. A round that does not come to its end is a violation, too."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ra-fault-")))
        postgres = servers.postgres() if (found.database or database) == "postgresql" else None
        redis = servers.redis() if (found.broker or broker) == "redis" else None
        if redis is not None:
            redis.flush()
        world = World(folder / "home", random.Random(seed), postgres, redis)
        stack.callback(world.close)
        try:
            with Watch(world) as watch:
                ends = found.inject(world) or {}
            result = audit(world, dict(ends), folder / "calm")
        except AssertionError as error:
            return Found(jobs=len(world.jobs), violations=[f"{error}", *_last_lines(world)])
        result.violations += watch.violations
        if result.violations:
            result.violations += _last_lines(world)
        return result


def _last_lines(world: World) -> list[str]:
    log = world.settings.logs_dir / "process.log"
    return (
        [f"  {line}" for line in log.read_text(errors="replace").splitlines()[-30:]] if log.exists() else []
    )
