"""A cache that all requests share, of what never changes: parsed profiles, rendered answers.

It holds only what follows from one stored row and a question, under that row's number, which a request has to get from the
repository first: there the team filter sits. So nobody gets an answer of a profile or plan that they may not see now, and what
is taken back is gone with the next request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from cachetools import LRUCache

T = TypeVar("T")
_LARGEST_SHARE = 4


class SharedCache(Generic[T]):
    """Values by key; the least recently used go first. Thread safe: of many requests for the same value one makes it.

    Args:
        most: largest weight of all values together; one that weighs more than a quarter of it is not cached.
        weigh: a value's weight.
        lasts: whether a value would be the same whenever it is made; others are not cached.
    """

    def __init__(
        self, most: int, weigh: Callable[[T], int], lasts: Callable[[T], bool] = lambda _: True
    ) -> None:
        self._most, self._weigh, self._lasts = most, weigh, lasts
        self._values = LRUCache[Hashable, T](most, getsizeof=weigh)
        self._making: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> float:
        """Weight of all values together."""
        return self._values.currsize

    def peek(self, key: Hashable) -> T | None:
        """The value of this key if it is here already."""
        with self._lock:
            return self._values.get(key)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of this key, made where it is missing.

        Args:
            make: makes the value. Where it raises, nothing is cached, and others who wait make it themselves: it may have been
                refused to one of them and be allowed to another.
        """
        with self._lock:
            if key in self._values:
                return self._values[key]
            others = self._making.get(key)
            if others is None:
                mine = self._making[key] = Future()
        if others is not None:
            with suppress(Exception):
                return others.result()
            return make()
        try:
            value = make()
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(value)
            self._put(key, value)
            return value
        finally:
            with self._lock:
                del self._making[key]

    def _put(self, key: Hashable, value: T) -> None:
        if self._weigh(value) * _LARGEST_SHARE <= self._most and self._lasts(value):
            with self._lock:
                self._values[key] = value
