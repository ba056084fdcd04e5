"""A service as the source of a command, through the Python client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from allocator.base.errors import FieldError, PreconditionFailed, PreconditionRequired, RankallocError
from api import client as api


@contextmanager
def service_at(server: str, token: str | None = None) -> Iterator[api.Client]:
    """The service at this address, by a token or that of ``RANKALLOC_TOKEN``; refusals become the command line's errors."""
    try:
        with api.Client(server, token=token or os.environ.get("RANKALLOC_TOKEN")) as client:
            yield client
    except api.Refused as error:
        raise _refusal(error) from error
    except api.ClientError as error:
        raise RankallocError(f"{server}: {error}") from error


_PRECONDITIONS: dict[type[api.Refused], type[RankallocError]] = {
    api.PreconditionRequired: PreconditionRequired,
    api.PreconditionFailed: PreconditionFailed,
}


def _refusal(error: api.Refused) -> RankallocError:
    fields = [
        FieldError(str(field.get("field")), str(field.get("found")), str(field.get("allowed")))
        for field in error.problem.get("errors") or []
    ]
    for theirs, ours in _PRECONDITIONS.items():
        if isinstance(error, theirs):
            return ours(str(error), fields=fields)
    detail = str(error)
    if isinstance(error, api.Unauthorized):
        detail += " (the token is read from RANKALLOC_TOKEN)"
    refused = RankallocError(detail, fields=fields)
    refused.exit_code = 3 if isinstance(error, api.BudgetInfeasible) else 2 if error.status < 500 else 1  # type: ignore[misc]
    return refused
