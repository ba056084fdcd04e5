"""Answers about a profile, made once for all who may see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from allocator.plan.documents.profile import Profile
from api.web.etags import Rendered
from api.web.services import Caller, Services


async def profile_answer(
    services: Services,
    caller: Caller,
    key: str,
    question: tuple[Any, ...],
    make: Callable[[Profile], Rendered],
) -> Rendered:
    """The answer to a question about a profile that its caller may see, made at the first request for it.

    Args:
        question: its kind and parameters.
        make: the answer from the profile, in a thread. It solves or draws, and imports what it needs for that:
            numerics take a moment which other requests need not wait for.

    Raises:
        NotFound: no such profile, or none that the caller may see.
    """
    row = await run_in_threadpool(services.store.profiles.locate, caller.team, key)
    name = (row, key, *question)
    cached = services.answers.peek(name)
    if cached is not None:
        return cached
    return await services.apart(
        partial(services.answers.get, name, lambda: make(services.profile(caller.team, key, row=row)))
    )
