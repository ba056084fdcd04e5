"""Errors of the client, in one tree.

ClientError                    str() is for people
├── NoAnswer                   no connection, or none in time; it was tried again where that was safe
├── Refused                    the server answered with an error: status, code, problem (RFC 9457), retry_after_s
│   ├── Unauthorized           401 no token, or none that is good
│   ├── Forbidden              403 the token's scopes do not allow it
│   ├── NotFound               404 also for what belongs to another team
│   ├── Conflict               409 the object's state forbids it
│   ├── PreconditionFailed     412 it has changed since it was looked at
│   ├── InvalidRequest         400, 413, 422: problem["errors"] names the fields
│   │   └── BudgetInfeasible   no ranks meet the budgets: problem["achievable"]
│   ├── PreconditionRequired   428 say which version you change
│   ├── TooManyRequests        429
│   └── ServerError            5xx
│       └── Unavailable        503 the store is down
├── JobFailed                  a job that was waited for did not succeed: job
├── WaitedTooLong              a job is not over yet: job
└── DownloadCorrupt            a file is not what its sha256 says, or its name leads out of the folder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from allocator.jobs.document import JobDocument

_MOST_CHARACTERS = 300


class ClientError(Exception):
    """Base of everything that a client raises by itself."""


class NoAnswer(ClientError):
    """The server cannot be reached, or did not answer in time."""


class Refused(ClientError):
    """The server answered with an error."""

    def __init__(self, problem: dict[str, Any], status: int, retry_after_s: float | None = None) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"status {status}")
        self.problem = problem
        """The whole answer: type, code, title, status, detail, instance, errors[], request_id."""
        self.status = status
        self.code: str = problem.get("code", "")
        """The last part of the problem's type, such as ``budget_infeasible``."""
        self.retry_after_s = retry_after_s
        """When the server would be asked again; None: it did not say."""


class Unauthorized(Refused):
    """No token, or none that is good."""


class Forbidden(Refused):
    """The token's scopes do not allow it."""


class NotFound(Refused):
    """There is no such thing, or it belongs to another team."""


class Conflict(Refused):
    """The object's state forbids it."""


class PreconditionFailed(Refused):
    """It has changed since it was looked at; look again and decide."""


class InvalidRequest(Refused):
    """The request cannot be carried out as written."""


class BudgetInfeasible(InvalidRequest):
    """No ranks meet the budgets; ``problem["achievable"]`` holds the least that each can reach."""


class PreconditionRequired(Refused):
    """It exists: say which version you change."""


class TooManyRequests(Refused):
    """More than the server takes at the moment."""


class ServerError(Refused):
    """The server failed."""


class Unavailable(ServerError):
    """The server's store does not answer."""


class JobFailed(ClientError):
    """A job that was waited for ended otherwise than in success."""

    def __init__(self, job: JobDocument) -> None:
        super().__init__(f"job {job.id} {job.state}: {(job.error or {}).get('detail', 'see its events')}")
        self.job = job


class WaitedTooLong(ClientError):
    """A job was not over in the time that was given to it; it goes on."""

    def __init__(self, job: JobDocument) -> None:
        super().__init__(f"job {job.id} is still {job.state}")
        self.job = job


class DownloadCorrupt(ClientError):
    """A file is not what was promised. Nothing of it was put in place."""


_BY_STATUS: dict[int, type[Refused]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: InvalidRequest,
    422: InvalidRequest,
    428: PreconditionRequired,
    429: TooManyRequests,
    503: Unavailable,
}


def refusal(response: httpx.Response) -> Refused:
    """An error answer as an exception; the answer must have been read."""
    problem: Any = None
    try:
        problem = response.json()
    except ValueError:
        text = response.text.strip()[:_MOST_CHARACTERS]
    else:
        text = str(problem)[:_MOST_CHARACTERS]
    if not isinstance(problem, dict):
        # Something between us and the service answered.
        problem = {"title": response.reason_phrase, "detail": f"status {response.status_code}: {text}"}
    kind = _BY_STATUS.get(response.status_code, ServerError if response.status_code >= 500 else Refused)
    if problem.get("code") == "budget_infeasible":
        kind = BudgetInfeasible
    return kind(problem, response.status_code, _seconds(response.headers.get("retry-after", "")))


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
