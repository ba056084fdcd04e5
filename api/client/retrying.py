"""One error for all failures of the network, and pauses before another attempt."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from api.client.errors import ClientError, NoAnswer, Refused

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0
_LONGEST_RETRY_AFTER_S = 60.0


@contextmanager
def answered() -> Iterator[None]:
    """Raises NoAnswer for whatever goes wrong between here and the server."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise NoAnswer(f"no answer in time ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise NoAnswer(f"the server cannot be reached: {error or type(error).__name__}") from error


def pause(attempt: int, error: ClientError | None = None) -> None:
    """Wait before the next attempt: what the server asks for, else a random part of a time that doubles."""
    retry_after_s = error.retry_after_s if isinstance(error, Refused) else None
    longest = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S)
    # Random, so that many clients that were turned away together do not come back together.
    jitter = random.uniform(0, longest)  # noqa: S311
    time.sleep(jitter if retry_after_s is None else min(retry_after_s, _LONGEST_RETRY_AFTER_S) + jitter)
