"""A client of the REST API, in Python::

    from api.client import Client

    with Client("http://127.0.0.1:8321") as client:
        job = client.jobs.submit("compress", "local:pylm-llama", ["block_params=0.8"])
        job = client.jobs.wait(job.id, on_event=lambda event: print(event.message))
        client.jobs.download(job.id, "compressed")

Everything is documented in ``docs/reference/python-client.md``. Imports no torch.
"""

from api.client.client import Client
from api.client.errors import (
    BudgetInfeasible,
    ClientError,
    Conflict,
    DownloadCorrupt,
    Forbidden,
    InvalidRequest,
    JobFailed,
    NoAnswer,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    Refused,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    WaitedTooLong,
)

__all__ = [
    "BudgetInfeasible",
    "Client",
    "ClientError",
    "Conflict",
    "DownloadCorrupt",
    "Forbidden",
    "InvalidRequest",
    "JobFailed",
    "NoAnswer",
    "NotFound",
    "PreconditionFailed",
    "PreconditionRequired",
    "Refused",
    "ServerError",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WaitedTooLong",
]
